import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Subset

from hiplora import HipLoraConfig
from hiplora.demo import base_path
from hiplora.errors import HiploraError
from hiplora.training.data import tokens as tokens_module
from hiplora.training.data.files import read_texts
from hiplora.training.data.tokens import TokenDataset, collator, mean_loss, split, tokenize
from tests import numerics

ALPHABET = " =+-0123456789abcdefghijklmnopqrstuvwxyz"
PAD, BOS, EOS = 0, 1, 2

PLAIN_CHAT = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
MARKED_CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration -%}{% else %}{{ bos_token }}{{ m.content }}={% endif %}{% endfor %}"
)
STRICT_CHAT = "{{ raise_exception('roles must alternate') }}"


@pytest.fixture(scope="module")
def tokenizer():
    """One token a character; `<bos>` before every text."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_path(), local_files_only=True)


@pytest.fixture(scope="module")
def merging():
    """A tokenizer without special tokens that joins `=a` to one token."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: index for index, character in enumerate(ALPHABET)} | {"=a": len(ALPHABET)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("=", "a")]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture(scope="module")
def demo():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_path(), local_files_only=True).eval()


@pytest.fixture
def chat(tokenizer):
    def with_template(template):
        other = copy.deepcopy(tokenizer)
        other.chat_template = template
        return other

    return with_template


@pytest.fixture
def jsonl(tmp_path):
    def write(*lines):
        path = tmp_path / "data.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="module")
def plain_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "a.txt"

    def write(text):
        path.write_text(text, encoding="utf-8")
        return path

    return write


def prompt(question, answer):
    return {"prompt": question, "completion": answer}


def messages(*contents):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]}


def heard(tokenizer, example):
    """The text that carries the loss."""
    return tokenizer.decode([label for label in example["labels"] if label != -100])


def dataset_of(*lengths, path="a.jsonl"):
    dataset = TokenDataset(path)
    for index, length in enumerate(lengths):
        assert dataset.append([4 + (index + 3 * at) % 36 for at in range(length)], [1] * length)
    return dataset


# Reading


def test_each_line_of_jsonl_is_a_record_of_its_kind(jsonl):
    texts = read_texts(jsonl({"text": "one"}, "", "  ", {"text": "two\nlines é"}))
    assert (texts.kind, texts.records, texts.plain) == ("text", ["one", "two\nlines é"], False)
    texts = read_texts(str(jsonl({"completion": "b", "prompt": "a"})))
    assert (texts.kind, texts.records) == ("prompt", [("a", "b")])
    texts = read_texts(jsonl(messages("hi", "ho")))
    wanted = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert (texts.kind, texts.records) == ("messages", [wanted])


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a", "a.json"])
def test_any_other_file_is_one_plain_text(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"text": "a"}\n\nb')
    texts = read_texts(path)
    assert (texts.kind, texts.records, texts.plain) == ("text", ['{"text": "a"}\n\nb'], True)


@pytest.mark.parametrize("name", ["a.txt", "a.JSONL"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n')
    assert read_texts(path).records == (['{"text": "a"}\n'] if name == "a.txt" else ["a"])


@pytest.mark.parametrize("name", ["data.txt", "data.jsonl", "data.bin", "data.parquet"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: pass a file"),
        (b" \n\t\r\n ", "is empty: pass a file"),
        (b"\x80\x04\x95\x00.", "is binary or not UTF-8: save"),
        (b'{"text": "caf\xe9"}\n', "is binary or not UTF-8: save"),
        ('{"text": "a"}\n'.encode("utf-16"), "is binary or not UTF-8: save"),
        (b'{"text": "a"}\n' * 100_000 + b"\0", "is binary or not UTF-8: save"),
    ],
)
def test_a_file_without_readable_text_is_named(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(HiploraError, match=says) as error:
        read_texts(path)
    assert str(error.value).startswith(str(path))


def test_a_path_that_is_no_file_is_named(tmp_path, lfs_pointer):
    with pytest.raises(HiploraError, match=r"absent\.txt is missing: check"):
        read_texts(tmp_path / "absent.txt")
    with pytest.raises(HiploraError, match="is a folder: pass"):
        read_texts(tmp_path)
    pointer = tmp_path / "data.jsonl"
    pointer.write_bytes(lfs_pointer)
    with pytest.raises(HiploraError, match=r"data\.jsonl is a Git LFS pointer"):
        read_texts(pointer)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "b"', "is not valid JSON .*at column 13.*one object per line"),
        ("[" * 100_000, "is not valid JSON"),
        ('["b"]', "holds a list where a JSON object is expected"),
        ('"b"', "holds a str where a JSON object is expected"),
        ("{}", "has the wrong keys .none."),
        ({"text": "b", "id": 3}, "has the wrong keys .'text', 'id'.: expected exactly"),
        ({"prompt": "b"}, "has the wrong keys .'prompt'."),
        ({"text": None}, 'wrong values: expected {"text"'),
        ({"text": 3}, 'wrong values: expected {"text"'),
        ('{"text": "\\ud800"}', "is a Unicode string"),
        ({"prompt": "b", "completion": ["c"]}, 'wrong values: expected {"prompt"'),
        ({"messages": "b"}, 'wrong values: expected {"messages"'),
        ({"messages": []}, 'wrong values: expected {"messages"'),
        ({"messages": ["b"]}, 'wrong values: expected {"messages"'),
        ({"messages": [{"role": "user"}]}, 'wrong values: expected {"messages"'),
        ({"messages": [{"role": "user", "content": None}]}, 'wrong values: expected {"messages"'),
        ({"messages": [{"role": "user", "content": "b", "name": "c"}]}, 'wrong values: expected {"messages"'),
    ],
)
def test_a_line_that_is_no_record_is_named_by_its_number(jsonl, line, says):
    with pytest.raises(HiploraError, match=rf"data\.jsonl, line 3 .*{says}") as error:
        read_texts(jsonl({"text": "a"}, "", line))
    assert "\n" not in str(error.value)


def test_mixed_kinds_are_named_by_the_first_line_of_each(jsonl):
    path = jsonl("", prompt("a", "b"), prompt("a", "b"), {"text": "c"}, messages("d"))
    with pytest.raises(HiploraError, match=r'mixes kinds, {"prompt".* in line 2 and {"text".* in line 4: make'):
        read_texts(path)


# Tokens


@given(text=st.text(ALPHABET, min_size=1, max_size=200).filter(str.strip), length=st.integers(2, 40))
def test_blocks_cover_a_plain_text_exactly(tokenizer, plain_file, text, length):
    examples = list(tokenize(read_texts(plain_file(text)), tokenizer, length))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert [example["input_ids"][0] for example in examples] == [BOS] * len(examples)
    assert [token for example in examples for token in example["input_ids"][1:]] == ids
    # With <bos> in front, each token of the text is predicted once.
    assert [label for example in examples for label in example["labels"] if label != -100] == ids
    assert [len(example["input_ids"]) for example in examples[:-1]] == [length] * (len(examples) - 1)
    assert 2 <= len(examples[-1]["input_ids"]) <= length


@given(size=st.integers(2, 120), length=st.integers(2, 40))
def test_a_last_block_of_one_token_has_nothing_to_predict(merging, plain_file, size, length):
    text = "".join(ALPHABET[1 + i % 30] for i in range(size))
    examples = list(tokenize(read_texts(plain_file(text)), merging, length))
    covered = merging.decode([token for example in examples for token in example["input_ids"]])
    assert covered == text[: size - (size % length == 1)]
    assert all(example["labels"] == [-100, *example["input_ids"][1:]] for example in examples)


def test_a_long_text_is_tokenized_by_pieces_that_end_with_a_line(tokenizer, plain_file, monkeypatch):
    lines = ["abc def=", "0" * 50, "xyz", "", "last line here"]
    texts = read_texts(plain_file("\n".join(lines)))
    whole = [example["input_ids"] for example in tokenize(texts, tokenizer, 16)]
    monkeypatch.setattr(tokens_module, "_PIECE", 20)
    assert [example["input_ids"] for example in tokenize(texts, tokenizer, 16)] == whole
    pieces = list(tokens_module._pieces(texts.records[0]))
    assert pieces == ["abc def=\n", "0" * 20, "0" * 20, "0" * 10 + "\nxyz\n\n", "last line here"]


def test_a_text_record_ends_with_the_end_token_and_a_blank_one_is_left_out(tokenizer, jsonl):
    dataset = tokenize(read_texts(jsonl({"text": "abc"}, {"text": " "}, {"text": "d"}, {"text": ""})), tokenizer, 8)
    assert [tokenizer.decode(example["input_ids"]) for example in dataset] == ["<bos>abc<eos>", "<bos>d<eos>"]
    assert [heard(tokenizer, example) for example in dataset] == ["abc<eos>", "d<eos>"]
    assert dataset.caveat == "2 records were left out: no token to predict within 8 tokens."


@given(question=st.text(ALPHABET, max_size=12), answer=st.text(ALPHABET, max_size=12))
def test_the_loss_falls_on_the_completion_and_the_end_token(tokenizer, tmp_path_factory, question, answer):
    path = tmp_path_factory.mktemp("prompt") / "a.jsonl"
    path.write_text(json.dumps(prompt(question, answer)))
    (example,) = tokenize(read_texts(path), tokenizer, 64)
    assert tokenizer.decode(example["input_ids"]) == f"<bos>{question}{answer}<eos>"
    assert heard(tokenizer, example) == f"{answer}<eos>"


def test_no_token_reaches_over_the_end_of_the_prompt(merging, jsonl):
    one, two = tokenize(read_texts(jsonl(prompt("x=", "abc"), prompt("x", "=abc"))), merging, 8)
    assert [merging.decode([token]) for token in one["input_ids"]] == ["x", "=", "a", "b", "c"]
    assert heard(merging, one) == "abc"
    assert [merging.decode([token]) for token in two["input_ids"]] == ["x", "=a", "b", "c"]
    assert heard(merging, two) == "=abc"


def test_long_records_are_cut_and_prompts_that_leave_no_room_left_out(tokenizer, jsonl):
    path = jsonl(prompt("abc", "de"), prompt("abc", "defgh"), prompt("abcde", "f"), prompt("abcdef", "g"))
    dataset = tokenize(read_texts(path), tokenizer, 7)
    whole, cut, end_cut = dataset
    assert (heard(tokenizer, whole), heard(tokenizer, cut), heard(tokenizer, end_cut)) == ("de<eos>", "def", "f")
    assert dataset.caveat == (
        "2 records were cut to 7 tokens. 1 record was left out: no token to predict within 7 tokens."
    )


def test_the_loss_falls_on_the_assistant_where_the_template_marks_it(chat, jsonl):
    tokenizer = chat(MARKED_CHAT)
    dataset = tokenize(read_texts(jsonl(messages("ab", "cd", "e", "fgh"), messages("only user"))), tokenizer, 12)
    (example,) = dataset
    assert tokenizer.decode(example["input_ids"]) == "<bos>ab=cd<eos><bos>e=fg"
    assert heard(tokenizer, example) == "cd<eos>fg"
    assert dataset.caveat == (
        "The loss falls on the assistant's turns. 1 record was cut to 12 tokens. "
        "1 record was left out: no token to predict within 12 tokens."
    )


def test_the_loss_falls_on_all_tokens_where_the_template_marks_nothing(chat, jsonl):
    tokenizer = chat(PLAIN_CHAT)
    dataset = tokenize(read_texts(jsonl(messages("ab", "cd"))), tokenizer, 12)
    assert heard(tokenizer, dataset[0]) == "ab<eos><bos>cd<eos>"
    assert dataset.caveat.startswith("The loss falls on all tokens: the chat template does not mark")


def test_messages_need_a_chat_template_that_takes_them(tokenizer, chat, jsonl):
    texts = read_texts(jsonl(messages("a", "b")))
    with pytest.raises(HiploraError, match=r"data\.jsonl holds messages, and .* no chat template: choose"):
        tokenize(texts, tokenizer, 8)
    with pytest.raises(HiploraError, match=r"conversation 1 does not fit .*roles must alternate.*: change"):
        tokenize(texts, chat(STRICT_CHAT), 8)


def test_what_holds_no_example_is_named(tokenizer, merging, jsonl, plain_file):
    for texts, with_tokenizer in (
        (read_texts(jsonl({"text": " "})), tokenizer),
        (read_texts(jsonl(prompt("abcdefgh", "i"))), tokenizer),
        (read_texts(plain_file("a")), merging),
    ):
        with pytest.raises(HiploraError, match="has no token to predict within 8 tokens: give") as error:
            tokenize(texts, with_tokenizer, 8)
        assert str(error.value).startswith(str(texts.path))
    with pytest.raises(HiploraError, match=r"max_length must be at least 2 .*got 1"):
        tokenize(read_texts(plain_file("abc")), tokenizer, 1)


def test_a_dataset_ends_where_its_examples_do():
    dataset = dataset_of(2, 5)
    assert len(dataset) == 2
    assert [len(example["labels"]) for example in dataset] == [2, 5]
    for index in (-1, 2):
        with pytest.raises(IndexError):
            dataset[index]


# Parting and padding


@given(
    size=st.integers(2, 300),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32 - 1),
    most=st.integers(1, 80),
)
def test_a_split_is_a_partition_that_its_seed_decides(size, share, seed, most):
    dataset = dataset_of(*[2] * size)
    state = torch.get_rng_state()
    train, validation = split(dataset, share, seed, most)
    assert sorted([*train.indices, *validation.indices]) == list(range(size))
    assert 1 <= len(validation) <= most
    assert len(train) >= 1
    assert len(validation) <= max(1, share * size + 0.5)
    again = split(dataset, share, seed, most)
    assert [part.indices for part in again] == [train.indices, validation.indices]
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_part_differently_and_one_example_cannot_be_parted():
    dataset = dataset_of(*[2] * 100)
    assert split(dataset, seed=0)[1].indices != split(dataset, seed=1)[1].indices
    assert [len(part) for part in split(dataset)] == [95, 5]
    with pytest.raises(HiploraError, match=r"one\.txt has too few tokens for one training and one validation example"):
        split(dataset_of(9, path="one.txt"))


@pytest.mark.parametrize(("special", "filling"), [({}, 0), ({"eos_token": "z"}, 39), ({"pad_token": "a"}, 14)])
def test_a_batch_is_padded_to_its_longest_without_loss(merging, special, filling):
    tokenizer = copy.deepcopy(merging)
    tokenizer.add_special_tokens(special)
    tokenizer.padding_side = "left"
    before = dict(tokenizer.special_tokens_map)
    dataset = dataset_of(2, 4)
    batch = collator(tokenizer)([dataset[0], dataset[1]])
    assert batch["input_ids"].tolist() == [[*dataset[0]["input_ids"], filling, filling], dataset[1]["input_ids"]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[*dataset[0]["labels"], -100, -100], dataset[1]["labels"]]
    assert dict(tokenizer.special_tokens_map) == before


# Loss


def dense_loss(model, dataset):
    return np.mean(dense_losses(model, dataset))


def dense_losses(model, dataset):
    """Example by example, unpadded, from float64 logits of a float64 copy of the model."""
    model, losses = copy.deepcopy(model).double().eval(), []
    for example in dataset:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].numpy()
        for at, label in enumerate(example["labels"][1:]):
            if label != -100:
                row = logits[at] - logits[at].max()
                losses.append(np.log(np.exp(row).sum()) - row[label])
    return losses


def loss_error(model, dataset):
    """Of each token's loss, which comes out of a network, and of their mean."""

    def losses(model):
        return torch.tensor(dense_losses(model, dataset))

    # 40 tokens and 144 losses are added up, whose roundings have no common sign: sqrt(40) + sqrt(144) < 20 of them.
    return numerics.outputs_error(model, losses) + numerics.gamma(20, "float32") * dense_loss(model, dataset)


@pytest.fixture(scope="module")
def llama_error(llama):
    # A causal model: every shorter dataset is a part of this one.
    return loss_error(llama, dataset_of(*[16] * 9))


@given(lengths=st.lists(st.integers(2, 16), min_size=1, max_size=9), batch_size=st.integers(1, 10))
def test_mean_loss_weighs_each_token_alike_whatever_the_batch(llama, llama_error, tokenizer, lengths, batch_size):
    dataset = dataset_of(*lengths)
    loss = mean_loss(llama, dataset, collator(tokenizer), batch_size)
    assert loss == pytest.approx(dense_loss(llama, dataset), abs=llama_error)
    assert loss == pytest.approx(mean_loss(llama, dataset, collator(tokenizer), 3), abs=llama_error)


@pytest.fixture(scope="module")
def llama(llama_base):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama_base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far from uniform: a wrong weighting would show
    return model


def test_mean_loss_is_that_of_the_completions_alone(demo, tokenizer, jsonl):
    path = jsonl(prompt("copy abc=", "abc"), prompt("rev kato=", "otak"), prompt("copy hello=", "olleh"))
    dataset = tokenize(read_texts(path), tokenizer, 64)
    loss = mean_loss(demo, dataset, collator(tokenizer), 2)
    assert loss == pytest.approx(dense_loss(demo, dataset), abs=loss_error(demo, dataset))
    # The base knows the first two answers by heart, and its own skills tell it that the third is wrong.
    assert mean_loss(demo, Subset(dataset, [0, 1]), collator(tokenizer), 2) < 0.01
    assert mean_loss(demo, Subset(dataset, [2]), collator(tokenizer), 2) > 1


def test_mean_loss_leaves_the_penalty_out_and_the_run_as_it_was(llama_base, tokenizer):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    config = HipLoraConfig(r=2, principal_rank=4, budget_lambda=1e3, lora_dropout=0.5, target_modules="all-linear")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(llama_base), config).train()
    dataset, collate = dataset_of(5, 9, 3), collator(tokenizer)
    before = mean_loss(model, dataset, collate, 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hiplora_C" in name:
                parameter.fill_(0.01)
    assert model(**collate([dataset[1]])).loss > before + 0.5
    state = torch.get_rng_state()
    assert mean_loss(model, dataset, collate, 2) == pytest.approx(before, abs=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    mean_loss(model, dataset, collate, 2)
    assert not model.training


def test_mean_loss_restores_the_mode_when_the_model_fails(llama, tokenizer):
    llama.train()
    too_large = TokenDataset("a.txt")
    too_large.append([1, 4000], [0, 1])
    with pytest.raises(IndexError):
        mean_loss(llama, too_large, collator(tokenizer), 1)
    assert llama.training


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{{ 'a' * 100000000000 }}",
        "{% for m in messages %}{{ m.content * 20000000 }}{% endfor %}",
    ],
)
def test_a_template_that_loops_or_explodes_is_refused(chat, jsonl, template):
    texts = read_texts(jsonl(messages("hi", "ho")))
    with pytest.raises(HiploraError, match="the chat template of this base's tokenizer needs more than 5 s or 1024 MB"):
        tokenize(texts, chat(template), 12)
