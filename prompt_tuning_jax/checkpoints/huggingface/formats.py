"""Which of Hugging Face's models a directory holds, and how the files of each kind are read.

T5 and its relatives are one format, T5Gemma is another, and causal language models have theirs.
So have encoders of BERT's kind; these, and causal families where a file says that positions see
both ways, embed texts and do nothing else here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prompt_tuning_jax.checkpoints.huggingface import bert, causal, t5gemma
from prompt_tuning_jax.checkpoints.huggingface import config as t5
from prompt_tuning_jax.checkpoints.huggingface import names as t5_names
from prompt_tuning_jax.checkpoints.huggingface.fields import FETCH, read_json
from prompt_tuning_jax.checkpoints.huggingface.files import (
    check_copies,
    check_output,
    stored_arrays,
    t5_arrays,
)
from prompt_tuning_jax.checkpoints.stored_array import Shape, StoredArray
from prompt_tuning_jax.models.bert import BertConfig
from prompt_tuning_jax.models.causal import CausalConfig
from prompt_tuning_jax.models.family import NetworkConfig
from prompt_tuning_jax.models.t5gemma import T5GemmaConfig

Arrays = dict[str, StoredArray]


class Format(NamedTuple):
    """What differs between kinds of models.

    Attributes:
      arrays: directory -> the weights in it by their plain names; only headers are read.
      read_config: (config.json, the weights, dtype, the end by the vocabulary) -> config.
      check: (config, weights) -> ValueError where two that should be one differ.
      weight_names: config -> Hugging Face name -> (our name, shape there).
      is_transposed: (config, our name) -> whether it is stored transposed.
      config_json: (config, dtype of the weights) -> the text of config.json; None where such models
        are only read.
      harmless: names that may be in the files and change nothing.
    """

    arrays: Callable[[Path], Arrays]
    read_config: Callable[[Path, Mapping[str, Any], Any, int | None], NetworkConfig]
    check: Callable[[NetworkConfig, Arrays], None]
    weight_names: Callable[[Any], Mapping[str, tuple[str, Shape]]]
    is_transposed: Callable[[Any, str], bool]
    config_json: Callable[[Any, str], str] | None
    harmless: tuple[str, ...]


T5 = Format(
    arrays=t5_arrays,
    read_config=lambda path, stored, dtype, _: t5.read_config(path, _has_output(stored), dtype),
    check=lambda _, stored: check_copies(stored),
    weight_names=t5_names.weight_names,
    is_transposed=lambda _, name: t5_names.is_transposed(name),
    config_json=t5.config_json,
    harmless=(t5_names.NO_EFFECT, *t5_names.EMBEDDING_COPIES),
)


def causal_format(architecture: str) -> Format:
    """The format of one family of causal models."""
    family = causal.FAMILIES[architecture]
    table = family.wrapper + family.names["token_embedder"] + ".weight"

    def arrays(directory: Path) -> Arrays:
        found = stored_arrays(directory)
        names = causal.plain_names(directory, found, family.wrapper)
        return {plain: found[name] for plain, name in names.items()}

    return Format(
        arrays=arrays,
        read_config=lambda path, _, dtype, eos_id: causal.read_config(path, dtype, eos_id),
        check=lambda config, stored: check_output(stored, table, config.logits_via_embedding),
        weight_names=causal.weight_names,
        is_transposed=causal.is_transposed,
        config_json=causal.config_json,
        harmless=(causal.OUTPUT,),
    )


def _t5gemma_arrays(directory: Path) -> Arrays:
    found = stored_arrays(directory)
    names = causal.plain_names(directory, found, t5gemma.WRAPPER, t5gemma.OUTPUT)
    return {plain: found[name] for plain, name in names.items()}


T5GEMMA = Format(
    arrays=_t5gemma_arrays,
    read_config=lambda path, _, dtype, eos_id: t5gemma.read_config(path, dtype, eos_id),
    check=lambda config, stored: check_output(
        stored, t5gemma.DECODER_TABLE, config.logits_via_embedding, t5gemma.OUTPUT
    ),
    weight_names=t5gemma.weight_names,
    is_transposed=t5gemma.is_transposed,
    config_json=t5gemma.config_json,
    harmless=(t5gemma.OUTPUT,),
)


def _bert_arrays(directory: Path) -> Arrays:
    found = stored_arrays(directory)
    return {plain: found[name] for plain, name in bert.plain_names(directory, found).items()}


BERT = Format(
    arrays=_bert_arrays,
    read_config=lambda path, _, dtype, __: bert.read_config(path, dtype),
    check=lambda *_: None,
    weight_names=bert.weight_names,
    is_transposed=bert.is_transposed,
    config_json=None,
    harmless=(),
)


def encoder_format_in(path: Path) -> Format:
    """The format of the model that a `config.json` describes, where all that it does is encode."""
    raw = read_json(path)
    if not _only_encodes(raw):
        return format_in(path)
    kind = raw["model_type"]
    return BERT if kind in bert.MODEL_TYPES else causal_format(kind)._replace(config_json=None)


def _only_encodes(raw: Mapping[str, Any]) -> bool:
    """Whether a model is one of BERT's kind, or of a causal family but sees both ways."""
    kind = raw.get("model_type")
    if kind in list(bert.MODEL_TYPES):
        return True
    reads = causal.FAMILIES[kind].reads if kind in list(causal.FAMILIES) else ()
    return causal.BIDIRECTIONAL in reads and raw.get(causal.BIDIRECTIONAL) is True


def format_in(path: Path) -> Format:
    """The format of the model that a `config.json` describes; T5's, which refuses all others."""
    raw = read_json(path)
    if "model_type" not in raw and "hidden_size" in raw:  # files of old T5s may lack it
        raise ValueError(
            f"{path} has no 'model_type', which says what kind of model it describes. {FETCH}"
        )
    model_type = raw.get("model_type", "t5")
    if _only_encodes(raw):
        how = "" if model_type in bert.MODEL_TYPES else f" ({causal.BIDIRECTIONAL} is true)"
        raise ValueError(
            f"{path} describes a {model_type!r} model, an encoder{how}: it writes no text, but "
            "embeds texts. Load it with `load_embedding_model`."
        )
    if model_type in list(causal.FAMILIES):
        return causal_format(model_type)
    if model_type == t5gemma.MODEL_TYPE:
        return T5GEMMA
    if model_type not in list(t5.MODEL_TYPES):
        why = _why(model_type, raw)
        raise ValueError(
            f"{path} describes a {model_type!r} model{why}; only T5 and its relatives "
            f"({', '.join((*t5.MODEL_TYPES, t5gemma.MODEL_TYPE))}) and causal models "
            f"({', '.join(causal.FAMILIES)}) can be loaded."
        )
    return T5


def format_of(config: NetworkConfig) -> Format:
    """The format that a model is written in; one that only encodes is only read."""
    if isinstance(config, CausalConfig):
        return causal_format(config.architecture)
    if isinstance(config, BertConfig):
        return BERT
    return T5GEMMA if isinstance(config, T5GemmaConfig) else T5


def _has_output(stored: Mapping[str, Any]) -> bool:
    return "lm_head.weight" in stored


def _why(model_type: Any, raw: Mapping[str, Any]) -> str:
    """What of a model is not done here, where that is known."""
    known = {
        "vision_config": "which reads images too",
        "num_local_experts": "a mixture of experts",
        "num_experts": "a mixture of experts",
        "n_routed_experts": "a mixture of experts",
        "hidden_size_per_layer_input": "with embeddings for each layer",
    }
    return next((f", {why}" for key, why in known.items() if raw.get(key)), "")
