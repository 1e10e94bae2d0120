"""BERT, RoBERTa and XLM-R in Hugging Face's format: their `config.json`, and names of weights."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.huggingface.fields import ACTIVATIONS, Fields, read_json
from prompt_tuning_jax.checkpoints.stored_array import Shape, add_once
from prompt_tuning_jax.models.bert import BertConfig
from prompt_tuning_jax.models.bert.weights import shapes

# Model type -> what stands before all names, unless the encoder was saved alone.
WRAPPERS = {
    "bert": "bert.",
    "camembert": "roberta.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
}
MODEL_TYPES = tuple(WRAPPERS)
# What would change the arithmetic, and is not done here; nothing, if it is false or empty.
_REFUSED = {
    "quantization_config": "its weights are stored in a form of their own",
    "pruned_heads": "some of its attention heads are cut away",
    "is_decoder": "its positions see only what comes before them",
    "add_cross_attention": "it also attends to an encoder",
}
# Our folder -> its name in the files.
_NAMES = {
    "token_embedder": "embeddings.word_embeddings",
    "position_embedder": "embeddings.position_embeddings",
    "type_embedder": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "attention/query": "encoder.layer.{i}.attention.self.query",
    "attention/key": "encoder.layer.{i}.attention.self.key",
    "attention/value": "encoder.layer.{i}.attention.self.value",
    "attention/out": "encoder.layer.{i}.attention.output.dense",
    "attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "mlp/wi": "encoder.layer.{i}.intermediate.dense",
    "mlp/wo": "encoder.layer.{i}.output.dense",
    "mlp_norm": "encoder.layer.{i}.output.LayerNorm",
}
_LAYER = re.compile(r"encoder/layers_(\d+)/(.+)")
# Constants, and what is trained to fill masks or to classify: no part of the encoder.
_NO_PART = re.compile(r"(embeddings\.(position_ids|token_type_ids)$|pooler\.|cls\.|lm_head\.)")
_COMPILED = "_orig_mod."  # torch.compile's mark, anywhere in a name
_OLD_ENDS = {".gamma": ".weight", ".beta": ".bias"}


def read_config(path: Path, dtype: Any = jnp.float32) -> BertConfig:
    """The BertConfig that a `config.json` describes; see `parse_config`."""
    return parse_config(read_json(path), path, dtype)


def parse_config(raw: Mapping[str, Any], path: str | Path, dtype: Any = jnp.float32) -> BertConfig:
    """The BertConfig that the fields of a `config.json` describe.

    Args:
      path: what errors call them.
      dtype: of the activations.

    Raises:
      ValueError: a key is missing, or asks for what is not done here.
    """
    fields = Fields(path, raw)
    for key, why in _REFUSED.items():
        if fields.get(key):
            raise ValueError(f"{path}: {key} is set: {why}, which is not done here.")
    kind = fields.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"{path}: position_embedding_type is {kind!r}; only 'absolute' is done.")
    activation = fields.get("hidden_act", "gelu")
    if activation not in list(ACTIVATIONS):
        raise ValueError(f"{path}: hidden_act {activation!r} is not one of {sorted(ACTIVATIONS)}.")
    counts_from_padding = raw["model_type"] != "bert"
    pad_id = fields.token("pad_token_id", int(counts_from_padding))
    return BertConfig(
        architecture=raw["model_type"],
        vocab_size=fields.count("vocab_size"),
        emb_dim=fields.count("hidden_size"),
        num_heads=fields.count("num_attention_heads"),
        num_layers=fields.count("num_hidden_layers"),
        mlp_dim=fields.count("intermediate_size"),
        positions=fields.count("max_position_embeddings"),
        first_position=pad_id + 1 if counts_from_padding else 0,
        token_types=fields.count("type_vocab_size", 2),
        activation=ACTIVATIONS[activation],
        norm_epsilon=fields.positive("layer_norm_eps", 1e-12),
        dropout_rate=fields.number("hidden_dropout_prob", 0.1),
        dtype=dtype,
        pad_id=pad_id,
    )


def weight_names(config: BertConfig) -> dict[str, tuple[str, Shape]]:
    """Hugging Face name -> (our name, shape there) of every weight the config's model has."""
    found = {}
    for ours, shape in shapes(config).items():
        layer = _LAYER.fullmatch(ours)
        number, within = (layer[1], layer[2]) if layer else ("", ours)
        folder, _, leaf = within.rpartition("/")
        end = "bias" if leaf == "bias" else "weight"
        stored = shape[::-1] if is_transposed(config, ours) else shape
        found[f"{_NAMES[folder].format(i=number)}.{end}"] = (ours, stored)
    return found


def is_transposed(config: BertConfig, ours: str) -> bool:
    """Whether the weight of this name is stored as [out, in]: every kernel."""
    del config
    return ours.endswith("/kernel")


def plain_names(place: object, names: Collection[str]) -> dict[str, str]:
    """Name in an encoder -> name in a file, which may have something before it, or an old end.

    What is no part of the encoder is left out.

    Raises:
      ValueError: a weight is there twice.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = name.replace(_COMPILED, "").removeprefix("module.")
        for wrapper in sorted(set(WRAPPERS.values())):
            plain = plain.removeprefix(wrapper)
        for old, new in _OLD_ENDS.items():
            plain = plain.removesuffix(old) + new if plain.endswith(old) else plain
        if is_part(plain):
            add_once(found, plain, name, place)
    return found


def is_part(name: str) -> bool:
    """Whether a module or a weight of this name belongs to the encoder."""
    return _NO_PART.match(name) is None
