"""The demo world's tokenizer: one token per character, in the format every Hugging Face loader reads."""

from typing import TYPE_CHECKING, Final

from hiplora.demo.skills import DIGITS, LETTERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD: Final = "<pad>"
BOS: Final = "<bos>"
EOS: Final = "<eos>"
UNK: Final = "<unk>"
VOCABULARY: Final = (PAD, BOS, EOS, UNK, *" =+-", *DIGITS, *LETTERS)
"""All tokens in the order of their ids; other characters become `<unk>`."""


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Make the tokenizer; a text becomes `<bos>` and one id per character, with no end token."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(VOCABULARY)}
    # BPE without merges splits into characters by itself; Fuse joins them again without spaces.
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=UNK, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
