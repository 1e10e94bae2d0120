"""What a `modules.json` says: the network, how its states are pooled, and what follows.

modules.json                       the modules in order, each with its type and its folder
sentence_bert_config.json          how long a text may be
1_Pooling/config.json              by its older keys or its newer ones
2_Dense/config.json                with model.safetensors beside it
config_sentence_transformers.json  text prompts by name; how many numbers of a vector are kept
"""

import json
from pathlib import Path
from typing import NamedTuple

from prompt_tuning_jax.checkpoints.huggingface.fields import FETCH, Fields, read_json
from prompt_tuning_jax.checkpoints.huggingface.files import has_weights
from prompt_tuning_jax.checkpoints.huggingface.model import MODULES
from prompt_tuning_jax.data.text_rows import TextPrompts
from prompt_tuning_jax.models.embedding import Step
from prompt_tuning_jax.models.embedding.config import POOLINGS

PROMPTS = "config_sentence_transformers.json"
_CONFIG = "config.json"
_LIBRARY = "sentence_transformers."
# An older key -> the pooling that it asks for, in the order in which vectors are put together.
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    "Identity": "linear",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu_exact",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_STATES, _TASK = "last_hidden_state", "feature-extraction"
_VECTOR = "sentence_embedding"
# Arguments for transformers, which could change anything.
_ARGUMENTS = (
    "model_args",
    "model_kwargs",
    "config_args",
    "config_kwargs",
    "tokenizer_args",
    "tokenizer_kwargs",
    "processor_kwargs",
    "processing_kwargs",
)
_NO_LIMIT = 10**9  # transformers writes a larger number where a tokenizer has no limit


class Dense(NamedTuple):
    """A dense module: its folder, and its step's number."""

    folder: Path
    number: int


class Modules(NamedTuple):
    """What the modules of a model are.

    Attributes:
      network: the directory of the network and its tokenizer.
      pooling, steps, include_prompt: as in `EmbeddingConfig`.
      dense: the modules that have weights.
      max_seq_length: None where the network's own files say it.
      lower_case: whether texts are written in small letters first.
    """

    network: Path
    pooling: tuple[str, ...]
    steps: tuple[Step, ...]
    include_prompt: bool
    dense: tuple[Dense, ...]
    max_seq_length: int | None
    lower_case: bool


def is_embedding_model(directory: Path) -> bool:
    """Whether a directory is one that sentence-transformers saved."""
    return (directory / MODULES).is_file()


def read_modules(directory: Path) -> Modules:
    """The modules of an embedding model.

    Raises:
      FileNotFoundError: a file is missing, or weights are there only as a pickle.
      ValueError: a file is corrupt, or asks for what is not done here; it names the file.
    """
    first, *others = _listed(directory / MODULES)
    if first[0] != "Transformer" or not others or others[0][0] != "Pooling":
        kinds = ", ".join(kind for kind, _ in (first, *others))
        raise ValueError(
            f"{directory / MODULES} lists {kinds}; only a Transformer, then a Pooling, and then "
            "Dense, Normalize and Dropout are done here."
        )
    network = first[1]
    _check_no_pickle(directory, network)
    max_seq_length, lower_case = _read_transformer(network)
    pooling, include_prompt = _read_pooling(others[0][1] / _CONFIG)
    steps: list[Step] = []
    dense = []
    for kind, folder in others[1:]:
        if kind == "Dense":
            _check_no_pickle(directory, folder)
            dense.append(Dense(folder, len(steps)))
            steps.append(_read_dense(folder / _CONFIG))
        elif kind == "Normalize":
            _check_vector(folder / _CONFIG)
            steps.append(Step("normalize"))
        elif kind != "Dropout":
            raise ValueError(
                f"{directory / MODULES} lists a module {kind} after the pooling, which is not done "
                "here; Dense, Normalize and Dropout are."
            )
    return Modules(
        network, pooling, tuple(steps), include_prompt, tuple(dense), max_seq_length, lower_case
    )


def read_text_prompts(directory: Path) -> TextPrompts:
    """The text prompts of a model; none where there is no file of them.

    Raises:
      ValueError: the file is corrupt.
    """
    path = directory / PROMPTS
    if not path.is_file():
        return TextPrompts()
    raw = read_json(path)
    prompts, default = raw.get("prompts") or {}, raw.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(x, str) for x in prompts.values()):
        raise ValueError(f"{path}: prompts must be texts by name, not {prompts!r}. {FETCH}")
    if default is not None and default not in prompts:
        raise ValueError(f"{path}: default_prompt_name {default!r} is none of its prompts. {FETCH}")
    return TextPrompts(prompts, default)


def read_truncation(directory: Path) -> tuple[Step, ...]:
    """What cuts vectors after all modules, if anything does (`truncate_dim`).

    Raises:
      ValueError: the file is corrupt, or asks for no number of numbers.
    """
    path = directory / PROMPTS
    fields = Fields(path, read_json(path) if path.is_file() else {})
    if fields.get("truncate_dim") is None:
        return ()
    return (Step("truncate", fields.count("truncate_dim")),)


def check_cut(directory: Path) -> None:
    """ValueError where the tokenizer's files would have a long text lose its beginning.

    As transformers reads them, tokenizer.json counts where tokenizer_config.json says nothing.
    """
    path, other = directory / "tokenizer_config.json", directory / "tokenizer.json"
    side = read_json(path).get("truncation_side") if path.is_file() else None
    if side is None and other.is_file():
        path, truncation = other, read_json(other).get("truncation")
        side = truncation.get("direction") if isinstance(truncation, dict) else None
    if str(side).lower() == "left":
        raise ValueError(
            f"{path} says that a text which is too long loses its beginning (left), which is not "
            "done here: it loses its end. Change it there if that is as good."
        )


def length_by_tokenizer(directory: Path, positions: int | None, given: int | None) -> int | None:
    """The most tokens of a text, as sentence-transformers finds it; None for no limit.

    Args:
      positions: how many a row may have by config.json.
      given: what its own file says, which counts before all others.
    """
    if given is not None:
        return given
    path = directory / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length") if path.is_file() else None
    limits = [positions, limit if isinstance(limit, int | float) and limit < _NO_LIMIT else None]
    return min((int(x) for x in limits if x is not None), default=None)


def _listed(path: Path) -> list[tuple[str, Path]]:
    """The kind of each module and its folder."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        found = [(module["type"], path.parent / module["path"]) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} lists no modules ({error!r}). {FETCH}") from error
    for kind, folder in found:
        if not isinstance(kind, str) or not kind.startswith(_LIBRARY):
            raise ValueError(
                f"{path} names {kind!r}, a module of the model's own code, which is never run."
            )
        if not folder.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(f"{path} names {folder}, which is outside of its directory. {FETCH}")
    if not found:
        raise ValueError(f"{path} lists no modules. {FETCH}")
    return [(kind.rpartition(".")[2], folder) for kind, folder in found]


def _check_no_pickle(directory: Path, folder: Path) -> None:
    if not has_weights(folder) and any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(
            f"{folder} has its weights only as a pickle, pytorch_model.bin, which can run code and "
            "is never read. Convert the model where sentence-transformers is installed: "
            f"SentenceTransformer({str(directory)!r}).save_pretrained(NEW_DIRECTORY), and pass "
            "NEW_DIRECTORY."
        )


def _read_transformer(folder: Path) -> tuple[int | None, bool]:
    """(max_seq_length, whether letters are made small) by sentence_bert_config.json."""
    paths = sorted(folder.glob("sentence_*_config.json"))
    if not paths:
        return None, False
    raw = read_json(paths[0])
    fields = Fields(paths[0], raw)
    for key in _ARGUMENTS:
        if fields.get(key):
            raise ValueError(f"{paths[0]}: {key} is set, which is not done here.")
    if (task := fields.get("transformer_task")) not in (None, _TASK):
        raise ValueError(f"{paths[0]}: transformer_task is {task!r}; only {_TASK} is done here.")
    ways = fields.get("modality_config", {})
    text = ways.get("text", {}) if isinstance(ways, dict) else None
    if not isinstance(text, dict) or text.get("method_output_name", _STATES) != _STATES:
        raise ValueError(f"{paths[0]}: modality_config asks for {text!r}; only {_STATES} is done.")
    has_length = fields.get("max_seq_length") is not None
    length = fields.count("max_seq_length") if has_length else None
    return length, fields.flag("do_lower_case") is True


def _read_pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """(the poolings, whether a text prompt's tokens count)."""
    fields = Fields(path, read_json(path))
    given = fields.get("pooling_mode")
    if given is None:
        asked = tuple(mode for key, mode in _OLD_POOLINGS.items() if fields.flag(key))
        given = asked or ("mean",)
    given = (given,) if isinstance(given, str) else tuple(given)
    if unknown := [mode for mode in given if mode not in POOLINGS]:
        raise ValueError(f"{path}: pooling {unknown[0]!r} is not one of {', '.join(POOLINGS)}.")
    return given, fields.flag("include_prompt") is not False


def _read_dense(path: Path) -> Step:
    fields = Fields(path, read_json(path))
    _check_vector(path)
    if fields.flag("use_residual"):
        raise ValueError(f"{path}: use_residual is set, which is not done here.")
    name = fields.get("activation_function", "torch.nn.modules.activation.Tanh")
    kind = str(name).rpartition(".")[2]
    if not str(name).startswith("torch.nn.") or kind not in _ACTIVATIONS:
        raise ValueError(
            f"{path}: activation_function {name!r} is not one of torch.nn's "
            f"{', '.join(_ACTIVATIONS)}."
        )
    bias = fields.flag("bias") is not False
    return Step("dense", fields.count("out_features"), bias, _ACTIVATIONS[kind])


def _check_vector(path: Path) -> None:
    """ValueError where a module reads or writes something else than the pooled vector."""
    raw = read_json(path) if path.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, _VECTOR):
            raise ValueError(f"{path}: {key} is {raw[key]!r}; only {_VECTOR!r} is done here.")
