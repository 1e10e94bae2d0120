"""Hugging Face's `config.json` of a T5 or mT5, to a T5Config and back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.models.t5.config import T5Config

# feed_forward_proj -> the activations of our MLP. Both libraries mean the tanh approximation by
# "gated-gelu"; a plain "gelu" means the exact one there, which this network does not have.
_ACTIVATIONS = {
    "relu": ("relu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}
_MODEL_TYPES = ("t5", "mt5")
# What the network takes as given; a file that says otherwise describes another model.
_FIXED = {
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}


def read_config(path: Path, untied: bool, dtype: Any = jnp.float32) -> T5Config:
    """The T5Config that a `config.json` describes.

    Args:
      untied: whether the weights hold an `lm_head.weight`. The file cannot be asked:
        transformers 5 writes `tie_word_embeddings: true` for every T5.
      dtype: of the activations.

    Raises:
      ValueError: the file is no JSON object, lacks a key, or describes a model that is not T5.
    """
    raw = json_object(path.read_bytes(), path, "Fetch it again.")
    model_type = raw.get("model_type", "t5")
    if model_type not in _MODEL_TYPES:
        raise ValueError(f"{path} describes a {model_type!r} model; only T5 and mT5 can be loaded.")
    for key, needed in _FIXED.items():
        if raw.get(key) not in (None, needed):
            raise ValueError(f"{path}: {key} is {raw[key]!r}; this T5 has {needed} built in.")
    num_layers = _positive(raw, "num_layers", path)
    scaled = _scaled(raw, model_type)
    return T5Config(
        vocab_size=_positive(raw, "vocab_size", path),
        emb_dim=_positive(raw, "d_model", path),
        num_heads=_positive(raw, "num_heads", path),
        head_dim=_positive(raw, "d_kv", path),
        mlp_dim=_positive(raw, "d_ff", path),
        num_encoder_layers=num_layers,
        num_decoder_layers=_positive(raw, "num_decoder_layers", path, num_layers),
        mlp_activations=_activations(raw, model_type, path),
        logits_via_embedding=not untied,
        scale_decoder_outputs=scaled if scaled == untied else None,
        relpos_buckets=_positive(raw, "relative_attention_num_buckets", path, 32),
        relpos_max_distance=_positive(raw, "relative_attention_max_distance", path, 128),
        dropout_rate=float(raw.get("dropout_rate", 0.1)),
        dtype=dtype,
        eos_id=_positive(raw, "eos_token_id", path, 1),
    )


def write_config(path: Path, config: T5Config, weights_dtype: str) -> None:
    """Writes the `config.json` that transformers and `read_config` read."""
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    if config.mlp_activations not in names:
        raise ValueError(
            f"mlp_activations {config.mlp_activations} has no Hugging Face T5 counterpart; "
            f"there are {sorted(names)}."
        )
    raw = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": names[config.mlp_activations],
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "dropout_rate": config.dropout_rate,
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.outputs_scaled,
        "dtype": weights_dtype,
        "eos_token_id": config.eos_id,
        **_FIXED,
    }
    path.write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _positive(raw: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:  # absent, or null as older files write "same as the encoder"
        value = default
    if value is None:
        raise ValueError(f"{path} has no {key!r}, which a T5's config.json must give.")
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{path}: {key} must be a positive whole number, not {value!r}.")
    return value


def _scaled(raw: Mapping[str, Any], model_type: str) -> bool:
    """Whether the decoder's output is scaled: older files say it by `tie_word_embeddings`."""
    tied = raw.get("tie_word_embeddings")
    scaled = raw.get("scale_decoder_outputs")
    if scaled is None:
        scaled = model_type == "t5" if tied is None else tied
    return bool(scaled)


def _activations(raw: Mapping[str, Any], model_type: str, path: Path) -> tuple[str, ...]:
    name = raw.get("feed_forward_proj", "gated-gelu" if model_type == "mt5" else "relu")
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"{path}: feed_forward_proj {name!r} is not one of {sorted(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]
