"""Hugging Face's `config.json` of a causal language model, to a CausalConfig and back.

What is alike in all models of a family, and what transformers fills in, is in `families`. A field
that it reads and that changes the arithmetic is obeyed or refused; older files' keys are read too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface.causal.families import FAMILIES, FamilyTable
from prompt_tuning_jax.checkpoints.huggingface.causal.positions import (
    BIDIRECTIONAL,
    layer_kinds,
    positions_json,
    sees_both_ways,
)
from prompt_tuning_jax.checkpoints.huggingface.fields import ACTIVATIONS, Fields, read_json
from prompt_tuning_jax.models.causal import BidirectionalConfig, CausalConfig

_WRITTEN = {"gelu": "gelu_pytorch_tanh", "gelu_exact": "gelu"}
# What would change the arithmetic, and is not done here; nothing, if it is false or empty.
_BOTH_WAYS = "its positions see what comes after them"
_REFUSED = {
    "quantization_config": "its weights are stored in a form of their own",
    "pruned_heads": "some of its attention heads are cut away",
    BIDIRECTIONAL: _BOTH_WAYS,
    "add_cross_attention": "it also attends to an encoder",
    "scale_attn_by_inverse_layer_idx": "its layers scale their scores differently",
}


def read_config(path: Path, dtype: Any = jnp.float32, eos_id: int | None = None) -> CausalConfig:
    """The CausalConfig that a `config.json` describes; see `parse_config`."""
    return parse_config(read_json(path), path, dtype, eos_id)


def parse_config(
    raw: Mapping[str, Any],
    path: str | Path,
    dtype: Any = jnp.float32,
    eos_id: int | None = None,
) -> CausalConfig:
    """The CausalConfig that the fields of a `config.json` describe.

    Args:
      path: what errors call them.
      dtype: of the activations.
      eos_id: what ends a text by the vocabulary: it counts where the file names several.

    Raises:
      ValueError: a key is missing, or asks for what is not done here.
    """
    name = raw["model_type"]
    return parse_fields(raw, path, name, FAMILIES[name], dtype, eos_id)


def parse_fields(
    raw: Mapping[str, Any],
    path: str | Path,
    architecture: str,
    table: FamilyTable,
    dtype: Any = jnp.float32,
    eos_id: int | None = None,
) -> CausalConfig:
    """The same for the fields of a stack of layers like those of a family.

    Args:
      architecture, table: the family, which the fields do not name.
      (the others as in `parse_config`)

    Raises:
      ValueError: as `parse_config`.
    """
    filled = {key: value for key, value in table.defaults.items() if key not in raw}
    fields = Fields(path, {**filled, **raw}, table.fields)
    for key, why in _REFUSED.items():
        if fields.get(key) and key not in table.reads:
            raise ValueError(f"{path}: {key} is set: {why}, which is not done here.")
    if fields.flag("is_causal") is False:  # transformers obeys it in all families
        raise ValueError(f"{path}: is_causal is false: {_BOTH_WAYS}, which is not done here.")
    sizes = _sizes(fields, table)

    def read(key: str) -> Any:
        return fields.get(key) if key in table.reads else None

    kind = BidirectionalConfig if sees_both_ways(fields, table) else CausalConfig
    return kind(
        architecture=architecture,
        **sizes,
        layers=layer_kinds(fields, table),
        mlp_activations=_activations(fields, table),
        norm_epsilon=fields.positive("rms_norm_eps", 1e-6),
        qkv_bias=table.has_biases or table.has_qkv_biases or bool(read("attention_bias")),
        out_bias=table.has_biases or bool(read("attention_bias")),
        mlp_bias=table.has_biases or bool(read("mlp_bias")),
        score_scale=_score_scale(fields, table, sizes["head_dim"]),
        score_cap=read("attn_logit_softcapping") and fields.positive("attn_logit_softcapping"),
        logit_cap=read("final_logit_softcapping") and fields.positive("final_logit_softcapping"),
        logits_via_embedding=bool(fields.flag("tie_word_embeddings")),
        dtype=dtype,
        **_tokens(fields, sizes["vocab_size"], eos_id),
        **table.switches,
    )


def config_json(config: CausalConfig, weights_dtype: str) -> str:
    """The text of the `config.json` that transformers and `read_config` read."""
    table = FAMILIES[config.architecture]
    raw = config_fields(config, table) | {
        "architectures": [table.model_class],
        "model_type": config.architecture,
        "dtype": weights_dtype,
    }
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def config_fields(config: CausalConfig, table: FamilyTable) -> dict[str, Any]:
    """The fields of a `config.json` that `parse_config` and transformers read."""
    activation = config.mlp_activations[0]
    raw = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.num_heads,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": _WRITTEN.get(activation, activation),
        "max_position_embeddings": config.max_length,
    }
    more = {
        "tie_word_embeddings": config.logits_via_embedding,
        "pad_token_id": config.pad_id if config.pad_id < config.vocab_size else None,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
    }
    if config.learned_positions:
        more["scale_attn_weights"] = config.score_scale != 1.0
    else:
        more |= {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}
        more |= positions_json(config, table)
    read = {
        "attention_bias": config.out_bias,
        "mlp_bias": config.mlp_bias,
        "query_pre_attn_scalar": _whole(round(config.score_scale**-2, 6)),
        "attn_logit_softcapping": config.score_cap,
        "final_logit_softcapping": config.logit_cap,
    }
    more |= {key: value for key, value in read.items() if key in table.reads}
    return {table.fields.get(key, key): value for key, value in raw.items()} | more


def _sizes(fields: Fields, table: FamilyTable) -> dict[str, int]:
    width, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    grouped = not table.switches.get("joined_qkv")
    shared = fields.count("num_key_value_heads", heads) if grouped else heads
    if heads % shared:
        raise ValueError(
            f"{fields.path}: num_key_value_heads, {shared}, must divide num_attention_heads, "
            f"{heads}. Correct the one that is wrong."
        )
    return {
        "vocab_size": fields.count("vocab_size"),
        "emb_dim": width,
        "num_heads": heads,
        "num_kv_heads": shared,
        "head_dim": fields.count("head_dim", width // heads) if grouped else width // heads,
        "mlp_dim": fields.count("intermediate_size", None if grouped else 4 * width),
        "max_length": fields.count("max_position_embeddings", 2048 if grouped else None),
    }


def _activations(fields: Fields, table: FamilyTable) -> tuple[str, ...]:
    """Of the MLP: GPT-2's is plain, all others are gated."""
    name = fields.get("hidden_act", "silu")
    if name not in list(ACTIVATIONS):
        raise ValueError(
            f"{fields.path}: {table.fields.get('hidden_act', 'hidden_act')} {name!r} is not one of "
            f"{sorted(ACTIVATIONS)}."
        )
    gated = "mlp/wi_0" in table.names
    return (ACTIVATIONS[name], "linear") if gated else (ACTIVATIONS[name],)


def _score_scale(fields: Fields, table: FamilyTable, head_dim: int) -> float:
    if fields.get("scale_attn_weights") is False and not table.names.get("attention/query"):
        return 1.0
    scalar = head_dim
    if "query_pre_attn_scalar" in table.reads:
        scalar = fields.positive("query_pre_attn_scalar")
    return scalar**-0.5


def _whole(x: float) -> float | int:
    """A whole number without its point: transformers takes no other for a count."""
    return int(x) if x == int(x) else x


def _tokens(fields: Fields, vocab_size: int, eos_id: int | None) -> dict[str, int | None]:
    """The ids of padding, end and begin; padding that a text may hold gets an id past the table."""
    ends = fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    if ends in ([], [None]):
        ends = [eos_id]
    if ends == [None]:
        raise ValueError(
            f"{fields.path} has no 'eos_token_id', and there is no vocabulary to say what ends a "
            "text: add it."
        )
    for token in ends:
        fields.checked_token("eos_token_id", token)
    begin, pad = fields.get("bos_token_id"), fields.get("pad_token_id")
    whole = isinstance(pad, int) and not isinstance(pad, bool) and 0 <= pad < vocab_size
    pad_id = pad if whole and pad not in (*ends, begin) else vocab_size
    return {
        "pad_id": pad_id,
        "eos_id": eos_id if eos_id in ends else ends[0],
        "start_id": pad_id,
        "bos_id": None if begin is None else fields.checked_token("bos_token_id", begin),
    }
