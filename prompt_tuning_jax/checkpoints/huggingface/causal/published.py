"""Published causal models by name: what their `config.json` says, for whoever has no file at hand.

Tests hold the number of weights of each beside the number that it was published with.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface.causal.config import parse_config
from prompt_tuning_jax.checkpoints.huggingface.fields import SIZES
from prompt_tuning_jax.models.causal import CausalConfig


def _llama3(factor: float, **fields: Any) -> Mapping[str, Any]:
    """Llama 3.1 and later, whose slow rotary positions are slower by a factor."""
    rope = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {
        "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": rope, "max_position_embeddings": 131072, "bos_token_id": 128000,
        "eos_token_id": 128001, **fields,
    }  # fmt: skip


def _qwen(model_type: str, **fields: Any) -> Mapping[str, Any]:
    return {
        "model_type": model_type, "vocab_size": 151936, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "bos_token_id": 151643,
        "eos_token_id": 151643, **fields,
    }  # fmt: skip


_TIED = {"tie_word_embeddings": True}
_LLAMA2 = {
    "model_type": "llama", "vocab_size": 32000, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
}  # fmt: skip
_LLAMA3_1, _LLAMA3_2 = _llama3(8.0), _llama3(32.0, **_TIED)
_SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
    "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 0, **_TIED,
}  # fmt: skip
_SMOLLM3 = {"model_type": "smollm3", "vocab_size": 128256, "max_position_embeddings": 65536}
_MISTRAL = {
    "model_type": "mistral", "vocab_size": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
    "sliding_window": None, "max_position_embeddings": 32768,
}  # fmt: skip
_QWEN2, _QWEN3 = _qwen("qwen2"), _qwen("qwen3")
_QWEN2_LONG = {**_QWEN2, "max_position_embeddings": 131072}
_GEMMA2 = {"model_type": "gemma2", "vocab_size": 256000, "max_position_embeddings": 8192}
_GEMMA3 = {
    "model_type": "gemma3_text", "vocab_size": 262144, "sliding_window": 512,
    "max_position_embeddings": 32768,
}  # fmt: skip
_GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "max_position_embeddings": 1024}
# Of a size: what it has in common with others, its SIZES, and what is its own.
_MODELS: dict[str, tuple[Mapping[str, Any], tuple[int, ...], Mapping[str, Any]]] = {
    "llama2-7b": (_LLAMA2, (4096, 32, 32, 32, 128, 11008), {}),
    "llama3.1-8b": (_LLAMA3_1, (4096, 32, 32, 8, 128, 14336), {}),
    "llama3.1-70b": (_LLAMA3_1, (8192, 80, 64, 8, 128, 28672), {}),
    "llama3.2-1b": (_LLAMA3_2, (2048, 16, 32, 8, 64, 8192), {}),
    "llama3.2-3b": (_LLAMA3_2, (3072, 28, 24, 8, 128, 8192), {}),
    "smollm2-135m": (_SMOLLM2, (576, 30, 9, 3, 64, 1536), {}),
    "smollm2-360m": (_SMOLLM2, (960, 32, 15, 5, 64, 2560), {}),
    "smollm2-1.7b": (_SMOLLM2, (2048, 24, 32, 32, 64, 8192), {"rope_theta": 130000.0}),
    "smollm3-3b": (_SMOLLM3, (2048, 36, 16, 4, 128, 11008), {"rope_theta": 5000000.0}),
    "mistral-7b": (_MISTRAL, (4096, 32, 32, 8, 128, 14336), {}),
    "qwen2.5-0.5b": (_QWEN2, (896, 24, 14, 2, 64, 4864), _TIED),
    "qwen2.5-1.5b": (_QWEN2_LONG, (1536, 28, 12, 2, 128, 8960), _TIED),
    "qwen2.5-7b": (_QWEN2_LONG, (3584, 28, 28, 4, 128, 18944), {"vocab_size": 152064}),
    "qwen3-0.6b": (_QWEN3, (1024, 28, 16, 8, 128, 3072), _TIED),
    "qwen3-1.7b": (_QWEN3, (2048, 28, 16, 8, 128, 6144), _TIED),
    "qwen3-4b": (_QWEN3, (2560, 36, 32, 8, 128, 9728), _TIED),
    "qwen3-8b": (_QWEN3, (4096, 36, 32, 8, 128, 12288), {}),
    "qwen3-14b": (_QWEN3, (5120, 40, 40, 8, 128, 17408), {}),
    "gemma2-2b": (_GEMMA2, (2304, 26, 8, 4, 256, 9216), {}),
    "gemma2-9b": (_GEMMA2, (3584, 42, 16, 8, 256, 14336), {}),
    "gemma2-27b": (_GEMMA2, (4608, 46, 32, 16, 128, 36864), {"query_pre_attn_scalar": 144}),
    "gemma3-270m": (_GEMMA3, (640, 18, 4, 1, 256, 2048), {}),
    "gemma3-1b": (_GEMMA3, (1152, 26, 4, 1, 256, 6912), {}),
    "gpt2": (_GPT2, (768, 12, 12, 12, 64, 3072), {}),
    "gpt2-xl": (_GPT2, (1600, 48, 25, 25, 64, 6400), {}),
}
PUBLISHED = tuple(_MODELS)


def published_config(name: str, dtype: Any = jnp.float32) -> CausalConfig:
    """The shape of a published model, such as "llama3.2-1b".

    Args:
      dtype: of the activations.

    Raises:
      ValueError: it is none of `PUBLISHED`.
    """
    return parse_config(published_fields(name), f"the config.json of {name}", dtype)


def published_fields(name: str) -> dict[str, Any]:
    """What the `config.json` of a published model says of its shape.

    Raises:
      ValueError: it is none of `PUBLISHED`.
    """
    if name not in _MODELS:
        raise ValueError(f"There is no {name!r} here: choose from {', '.join(PUBLISHED)}.")
    shared, sizes, own = _MODELS[name]
    return {**shared, **dict(zip(SIZES, sizes, strict=True)), **own}
