"""Small models of the architectures that adapters are trained on, and the linear maps to adapt in each."""

from collections.abc import Callable
from typing import Any, Final

import torch
import transformers as hf
from transformers.pytorch_utils import Conv1D

_TEXT: Final[dict[str, Any]] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED: Final = _TEXT | {"num_key_value_heads": 2}
_VISION: Final[dict[str, Any]] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_GPT2: Final[dict[str, Any]] = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_MOST: Final = 8
_MOE: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_SEQ2SEQ: Final[dict[str, Any]] = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip


def _gemma3() -> hf.PreTrainedModel:
    config = hf.Gemma3Config(
        text_config=_GROUPED | {"head_dim": 8},
        vision_config=_VISION,
        mm_tokens_per_image=4,
        image_token_index=60,
        boi_token_index=61,
        eoi_token_index=62,
    )
    return hf.Gemma3ForConditionalGeneration(config)


def _qwen_vl() -> hf.PreTrainedModel:
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32, "patch_size": 14,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config=_GROUPED | {"rope_scaling": rope}, vision_config=vision, image_token_id=60, video_token_id=61,
            vision_start_token_id=62, vision_end_token_id=63,
        )
    )  # fmt: skip


def _llava() -> hf.PreTrainedModel:
    vision = hf.CLIPVisionConfig(**_VISION, projection_dim=16)
    text = hf.LlamaConfig(**_GROUPED)
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=60)
    )


def _clip() -> hf.PreTrainedModel:
    return hf.CLIPModel(hf.CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16))


ARCHITECTURES: Final[dict[str, Callable[[], hf.PreTrainedModel]]] = {
    "Llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_GROUPED)),
    "Mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_GROUPED, head_dim=8)),
    "Qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GROUPED)),
    "Qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GROUPED, head_dim=8)),
    "Gemma 2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_GROUPED, head_dim=8)),
    "Phi-3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_GROUPED)),
    "GPT-2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT2)),
    "GPT-NeoX": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_TEXT)),
    "OPT": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4,
            max_position_embeddings=32, word_embed_proj_dim=32, pad_token_id=0,
        )
    ),
    "BLOOM": lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4)),
    "Falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    ),
    "BERT": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_TEXT)),
    "DistilBERT": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=64, dim=32, hidden_dim=48, n_layers=1, n_heads=4, max_position_embeddings=32)
    ),
    "RoBERTa": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_TEXT)),
    "T5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    ),
    "BART": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**_SEQ2SEQ, max_position_embeddings=32)),
    "Whisper": lambda: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(**_SEQ2SEQ, num_mel_bins=8, max_source_positions=8, max_target_positions=8)
    ),
    "ViT": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_VISION, num_labels=4)),
    "DINOv2": lambda: hf.Dinov2Model(
        hf.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=16,
                        patch_size=8)
    ),
    "CLIP": _clip,
    "Gemma 3": _gemma3,
    "Qwen2.5-VL": _qwen_vl,
    "LLaVA": _llava,
    "Qwen2-MoE": lambda: hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(**_GROUPED, **_MOE, shared_expert_intermediate_size=24)
    ),
    "Mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_GROUPED, num_local_experts=4)),
    "Mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=8, time_step_rank=8)
    ),
}  # fmt: skip
"""Name in the table -> a model with random weights."""


def target_modules(model: torch.nn.Module) -> list[str]:
    """Return the names of up to eight linear maps, from all parts of a model: no heads, none of less than 8 rows."""
    heads = ["lm_head", "embed_out", "classifier", "score", "vocab_projector", "decoder", "proj_out"]
    if isinstance(model, hf.MambaForCausalLM):
        # PEFT does not put LoRA on it, since the model's fast path reads its weight directly.
        heads.append("out_proj")
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and min(module.weight.shape) >= 8
        and name.rpartition(".")[2] not in heads
    ]
    return names[:: -(-len(names) // _MOST)]
