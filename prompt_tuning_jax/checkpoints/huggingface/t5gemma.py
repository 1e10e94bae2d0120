"""T5Gemma in Hugging Face's format: its `config.json`, which holds one for each stack, and names.

Each stack's fields are those of a Gemma 2, which the reader of causal models reads.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface import causal
from prompt_tuning_jax.checkpoints.huggingface.fields import FETCH, SIZES, Fields, read_json
from prompt_tuning_jax.checkpoints.stored_array import Shape
from prompt_tuning_jax.models.t5gemma import T5GemmaConfig
from prompt_tuning_jax.models.t5gemma.weights import EMBEDDING_NAME, shapes

MODEL_TYPE = "t5gemma"
WRAPPER = "model."
OUTPUT = "lm_head.out_proj.weight"
DECODER_TABLE = "model.decoder.embed_tokens.weight"
_STACKS = ("encoder", "decoder")
_GEMMA = causal.FAMILIES["gemma2"]
# Our folder in a stack -> its name in the files, where that is not Gemma 2's.
_NAMES = _GEMMA.names | {
    "pre_attention_norm": "layers.{i}.pre_self_attn_layernorm",
    "post_attention_norm": "layers.{i}.post_self_attn_layernorm",
    "pre_cross_attention_norm": "layers.{i}.pre_cross_attn_layernorm",
    "post_cross_attention_norm": "layers.{i}.post_cross_attn_layernorm",
    "cross_attention/query": "layers.{i}.cross_attn.q_proj",
    "cross_attention/key": "layers.{i}.cross_attn.k_proj",
    "cross_attention/value": "layers.{i}.cross_attn.v_proj",
    "cross_attention/out": "layers.{i}.cross_attn.o_proj",
    "encoder_norm": "norm",
    "decoder_norm": "norm",
}
# The encoder's table is no stack's in our tree, since the prompt joins what is embedded by it.
_IN_STACK = {EMBEDDING_NAME: f"encoder/{EMBEDDING_NAME}"}
_STACK = re.compile(r"(encoder|decoder)/(?:layers_(\d+)/)?(.+)")
# Of the published stacks their SIZES; scores are scaled by head_dim**-0.5 in all of them.
_PUBLISHED_STACKS = {
    "s": (512, 8, 8, 8, 64, 1024),
    "b": (768, 12, 12, 12, 64, 2048),
    "l": (1024, 24, 16, 16, 64, 2816),
    "ml": (1152, 26, 4, 4, 256, 6912),
    "xl": (2048, 24, 32, 32, 64, 5120),
    "2b": (2304, 26, 8, 4, 256, 9216),
    "9b": (3584, 42, 16, 8, 256, 14336),
}
_PAIRS = ("s-s", "b-b", "l-l", "ml-ml", "xl-xl", "2b-2b", "9b-2b", "9b-9b")
PUBLISHED = tuple(f"{MODEL_TYPE}-{pair}" for pair in _PAIRS)


def read_config(path: Path, dtype: Any = jnp.float32, eos_id: int | None = None) -> T5GemmaConfig:
    """The T5GemmaConfig that a `config.json` describes; see `parse_config`."""
    return parse_config(read_json(path), path, dtype, eos_id)


def parse_config(
    raw: Mapping[str, Any],
    path: str | Path,
    dtype: Any = jnp.float32,
    eos_id: int | None = None,
) -> T5GemmaConfig:
    """The T5GemmaConfig that the fields of a `config.json` describe.

    The decoder starts from its `bos_token_id`, as in transformers; `decoder_start_token_id` says
    where generation starts, see `generation`.

    Args:
      path: what errors call them.
      dtype: of the activations.
      eos_id: what ends a text by the vocabulary: it counts where the file names several.

    Raises:
      ValueError: a key is missing, or asks for what is not done here.
    """
    fields = Fields(path, raw)
    whole = {key: raw[key] for key in ("eos_token_id", "quantization_config") if key in raw}
    stacks = {}
    for name in _STACKS:
        if not isinstance(raw.get(name), dict):
            raise ValueError(f"{path} has no {name!r}, the fields of that stack. {FETCH}")
        given, where = raw[name] | whole, f"{path} ({name})"
        stacks[name] = causal.parse_fields(given, where, MODEL_TYPE, _GEMMA, dtype, eos_id)
    encoder, decoder = stacks["encoder"], stacks["decoder"]
    if encoder.pad_id != decoder.pad_id:
        raise ValueError(
            f"{path}: padding has the id {encoder.pad_id} in the encoder and {decoder.pad_id} in "
            "the decoder. Correct the pad_token_id that is wrong."
        )
    if decoder.bos_id is None:
        raise ValueError(
            f"{path} has no bos_token_id in its decoder, which starts from it: add it."
        )
    tied = fields.flag("tie_word_embeddings") is not False
    return T5GemmaConfig(
        encoder=dataclasses.replace(encoder, logits_via_embedding=True),  # it has no other
        decoder=dataclasses.replace(decoder, logits_via_embedding=tied),
        dropout_rate=fields.number("dropout_rate", 0.0),
        dtype=dtype,
        pad_id=decoder.pad_id,
        eos_id=decoder.eos_id,
        start_id=decoder.bos_id,
    )


def published_config(name: str, dtype: Any = jnp.float32) -> T5GemmaConfig:
    """The shape of a published model, such as "t5gemma-9b-2b", as its `config.json` says it.

    Args:
      dtype: of the activations.

    Raises:
      ValueError: it is none of `PUBLISHED`.
    """
    if name not in PUBLISHED:
        raise ValueError(f"There is no {name!r} here: choose from {', '.join(PUBLISHED)}.")
    raw = {}
    for stack, size in zip(_STACKS, name.split("-")[1:], strict=True):
        sizes = dict(zip(SIZES, _PUBLISHED_STACKS[size], strict=True))
        given = {"vocab_size": 256000, "max_position_embeddings": 8192}
        raw[stack] = given | sizes | {"query_pre_attn_scalar": sizes["head_dim"]}
    return parse_config(raw, f"the config.json of {name}", dtype)


def config_json(config: T5GemmaConfig, weights_dtype: str) -> str:
    """The text of the `config.json` that transformers and `read_config` read."""
    encoder, decoder = (
        causal.config_fields(stack, _GEMMA) | {"model_type": "t5_gemma_module"}
        for stack in (config.encoder, config.decoder)
    )
    start = {"bos_token_id": config.start_id}
    raw = {
        "architectures": ["T5GemmaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "is_encoder_decoder": True,
        "encoder": encoder | {"is_decoder": False},
        "decoder": decoder | {"is_decoder": True, **start},
        "vocab_size": config.vocab_size,
        "dropout_rate": config.dropout_rate,
        "tie_word_embeddings": config.logits_via_embedding,
        "dtype": weights_dtype,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.eos_id,
        "decoder_start_token_id": config.start_id,
        **start,
    }
    return json.dumps(raw, indent=2, sort_keys=True) + "\n"


def weight_names(config: T5GemmaConfig) -> dict[str, tuple[str, Shape]]:
    """Hugging Face name -> (our name, shape there) of every weight the config's model has."""
    found = {}
    for ours, shape in shapes(config).items():
        stored = shape[::-1] if is_transposed(config, ours) else shape
        found[_theirs(ours)] = (ours, stored)
    return found


def is_transposed(config: T5GemmaConfig, ours: str) -> bool:
    """Whether the weight of this name is stored as [out, in]: every kernel."""
    del config
    return ours.endswith("/kernel")


def _theirs(ours: str) -> str:
    if ours == "decoder/logits_dense/kernel":
        return OUTPUT
    stack, number, within = _STACK.fullmatch(_IN_STACK.get(ours, ours)).groups()
    folder, _, leaf = within.rpartition("/")
    end = "bias" if leaf == "bias" else "weight"
    return f"{WRAPPER}{stack}.{_NAMES[folder].format(i=number)}.{end}"
