"""Hugging Face's `config.json` of a T5 and its relatives, to a T5Config and back.

    t5      T5 1.0, T5 1.1, Flan-T5, UL2, ByT5, CodeT5, CodeT5+ (220M, 770M), MADLAD-400
    mt5     mT5
    umt5    umT5, Pile-T5: a relative-position bias in every layer
    longt5  LongT5: local or transient-global attention in the encoder

A field that transformers reads is obeyed or refused; two that contradict each other are refused.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface.fields import (
    ACTIVATIONS,
    FETCH,
    Fields,
    read_json,
)
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.models.t5.config import T5Config

# model_type -> feed_forward_proj where the file does not say it.
MODEL_TYPES = {"t5": "relu", "mt5": "gated-gelu", "umt5": "gated-gelu", "longt5": "relu"}
# model_type -> where the decoder starts if the file does not say it; else from padding.
_STARTS = {"mt5": 0, "umt5": 0}
# How an MLP is written; what is not here can still be read.
_PROJECTIONS = {
    ("linear",): "linear",
    ("relu",): "relu",
    ("silu",): "silu",
    ("gelu",): "gelu_new",
    ("gelu_exact",): "gelu",
    ("gelu", "linear"): "gated-gelu",
    ("linear", "linear"): "gated-linear",
    ("relu", "linear"): "gated-relu",
    ("silu", "linear"): "gated-silu",
}
# Other names of a field, which transformers obeys too.
_SYNONYMS = {
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "d_kv": "head_dim",
}
# What would change the arithmetic, and is not done here; nothing, if it is false or empty.
_REFUSED = {
    "quantization_config": "its weights are stored in a form of their own",
    "pruned_heads": "some of its attention heads are cut away",
    "tie_encoder_decoder": "its encoder and decoder share their weights",
}
_ATTENTION_TYPES = {"local": "local", "transient-global": "transient_global"}
GENERATION = "generation_config.json"


def read_config(path: Path, untied: bool, dtype: Any = jnp.float32) -> T5Config:
    """The T5Config that a `config.json` describes; see `parse_config`.

    Where the decoder starts may stand in the `generation_config.json` beside it.
    """
    return parse_config(path.read_bytes(), path, untied, dtype, _generation_start(path))


def parse_config(
    text: bytes,
    path: str | Path,
    untied: bool,
    dtype: Any = jnp.float32,
    generation_start: int | None = None,
) -> T5Config:
    """The T5Config that the text of a `config.json` describes.

    Args:
      path: what errors call it.
      untied: whether the weights hold an `lm_head.weight`. The file cannot be asked:
        transformers 5 writes `tie_word_embeddings: true` for every T5.
      dtype: of the activations.
      generation_start: where the decoder starts when it generates, and so, if nothing else is said,
        always.

    Raises:
      ValueError: the file is no JSON object, lacks a key, or describes a model that is not T5.
    """
    raw = Fields(path, json_object(text, path, FETCH), _SYNONYMS)
    model_type = raw.get("model_type", "t5")
    if model_type not in list(MODEL_TYPES):
        raise ValueError(
            f"{path} describes a {model_type!r} model, which is none of T5 and its "
            f"relatives ({', '.join(MODEL_TYPES)})."
        )
    for key, why in _REFUSED.items():
        if raw.get(key):
            raise ValueError(f"{path}: {key} is set: {why}, which is not done here.")
    long = model_type == "longt5"
    num_layers, scaled = raw.count("num_layers"), _scaled(raw, model_type)
    pad_id = raw.token("pad_token_id", 0)
    start_id = _STARTS.get(model_type, pad_id) if generation_start is None else generation_start
    return T5Config(
        vocab_size=raw.count("vocab_size"),
        emb_dim=raw.count("d_model"),
        num_heads=raw.count("num_heads"),
        head_dim=raw.count("d_kv"),
        mlp_dim=raw.count("d_ff"),
        num_encoder_layers=num_layers,
        num_decoder_layers=raw.count("num_decoder_layers", num_layers),
        mlp_activations=_activations(raw, MODEL_TYPES[model_type]),
        logits_via_embedding=not untied,
        scale_decoder_outputs=scaled if scaled == untied else None,
        relpos_buckets=raw.count("relative_attention_num_buckets", 32),
        relpos_max_distance=raw.count("relative_attention_max_distance", 128),
        layer_relpos_bias=model_type == "umt5",
        layer_norm_epsilon=raw.number("layer_norm_epsilon", 1e-6),
        dropout_rate=raw.number("dropout_rate", 0.1),
        encoder_attention=_encoder_attention(raw) if long else "full",
        local_radius=raw.count("local_radius", 127) if long else 127,
        global_block_size=raw.count("global_block_size", 16) if long else 16,
        dtype=dtype,
        pad_id=pad_id,
        eos_id=_eos_id(raw),
        start_id=raw.token("decoder_start_token_id", start_id),
    )


def config_json(config: T5Config, weights_dtype: str) -> str:
    """The text of the `config.json` that transformers and `read_config` read.

    Raises:
      ValueError: there is no such T5.
    """
    if config.mlp_activations not in _PROJECTIONS:
        raise ValueError(
            f"mlp_activations {config.mlp_activations} has no Hugging Face T5 counterpart; "
            f"there are {sorted(_PROJECTIONS)}."
        )
    family, more = _family(config)
    raw = {
        "architectures": [f"{family}ForConditionalGeneration"],
        "model_type": family.lower(),
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "num_heads": config.num_heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": _PROJECTIONS[config.mlp_activations],
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "dropout_rate": config.dropout_rate,
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.outputs_scaled,
        "dtype": weights_dtype,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.eos_id,
        "decoder_start_token_id": config.start_id,
        **more,
    }
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def _family(config: T5Config) -> tuple[str, dict[str, Any]]:
    """Which of transformers' models it is, and the fields that only that one has."""
    if config.encoder_attention == "full":
        return ("UMT5" if config.layer_relpos_bias else "T5"), {}
    if config.layer_relpos_bias:
        raise ValueError(
            "A LongT5 with a relative-position bias in every layer has no Hugging Face counterpart."
        )
    types = {ours: theirs for theirs, ours in _ATTENTION_TYPES.items()}
    return "LongT5", {
        "encoder_attention_type": types[config.encoder_attention],
        "local_radius": config.local_radius,
        "global_block_size": config.global_block_size,
    }


def _generation_start(path: Path) -> int | None:
    path = path.with_name(GENERATION)
    if not path.is_file():
        return None
    return read_json(path).get("decoder_start_token_id")


def _eos_id(raw: Fields) -> int:
    """The id that ends a text; of several that end generation, the first."""
    value = raw.get("eos_token_id", 1)
    first = value[0] if isinstance(value, list) and value else value
    return raw.checked_token("eos_token_id", first)


def _scaled(raw: Fields, model_type: str) -> bool:
    """Whether the decoder's output is scaled: older files say it by `tie_word_embeddings`.

    transformers 5 calls every mT5 tied, and scales none; transformers 4 scales those that are.
    """
    tied, stated = raw.flag("tie_word_embeddings"), raw.flag("scale_decoder_outputs")
    if model_type != "mt5":
        return tied is not False if stated is None else stated
    scaled = tied is True and str(raw.get("transformers_version", "")).startswith("4.")
    if stated not in (None, scaled):
        raise ValueError(
            f"{raw.path}: scale_decoder_outputs is {stated}, which no mT5 obeys. Correct it, or "
            "model_type, if this is a T5."
        )
    return scaled


def _encoder_attention(raw: Fields) -> str:
    name = raw.get("encoder_attention_type", "local")
    if name not in list(_ATTENTION_TYPES):
        raise ValueError(
            f"{raw.path}: encoder_attention_type {name!r} is not one of {sorted(_ATTENTION_TYPES)}."
        )
    return _ATTENTION_TYPES[name]


def _activations(raw: Fields, default: str) -> tuple[str, ...]:
    """Of the MLP: `feed_forward_proj` says it, two other fields may say it again."""
    projection = raw.get("feed_forward_proj", default)
    gate, _, name = str(projection).rpartition("-")
    name = "gelu_new" if projection == "gated-gelu" else name
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        raise ValueError(
            f"{raw.path}: feed_forward_proj {projection!r} is not one of {sorted(ACTIVATIONS)}, "
            "with or without 'gated-'."
        )
    again = raw.get("dense_act_fn", name), raw.get("is_gated_act", bool(gate))
    if (ACTIVATIONS.get(str(again[0])), again[1]) != (ACTIVATIONS[name], bool(gate)):
        raise ValueError(
            f"{raw.path}: feed_forward_proj is {projection!r}, but dense_act_fn {again[0]!r} and "
            f"is_gated_act {again[1]}. Correct the one that is wrong."
        )
    return (ACTIVATIONS[name], "linear") if gate else (ACTIVATIONS[name],)
