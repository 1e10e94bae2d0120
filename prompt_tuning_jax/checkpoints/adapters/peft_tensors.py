"""PEFT's adapters within a network: LoRA and IA3, its names and settings beside ours.

    base_model.model.MODULE.lora_A.weight   [r, in]     FOLDER/kernel_lora_a     [in, r]
    base_model.model.MODULE.lora_B.weight   [out, r]    FOLDER/kernel_lora_b     [r, out]
    base_model.model.MODULE.ia3_l           [out, 1]    FOLDER/kernel_out_scale  [out]
    base_model.model.MODULE.ia3_l           [1, in]     FOLDER/kernel_in_scale   [in]

MODULE is what transformers calls the weight in FOLDER; of an embedding model, what its network
alone (`AutoModel`) calls it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.adapters import peft_settings
from prompt_tuning_jax.checkpoints.huggingface import bert, causal
from prompt_tuning_jax.checkpoints.huggingface.formats import format_of
from prompt_tuning_jax.models.adapters import IN_SCALE, LORA_A, LORA_B, LORA_SCALE, OUT_SCALE
from prompt_tuning_jax.models.bert import BertConfig
from prompt_tuning_jax.models.causal import CausalConfig
from prompt_tuning_jax.models.embedding import EmbeddingConfig
from prompt_tuning_jax.models.embedding.encoders import encoder_of
from prompt_tuning_jax.models.family import NetworkConfig

Config = NetworkConfig | EmbeddingConfig
Tensors = Mapping[str, np.ndarray]
Leaves = dict[str, np.ndarray]
_BEFORE = "base_model.model."
_IA3 = ".ia3_l"
_LORA = re.compile(r"(.+)\.lora_(A|B)\.weight")
# Variants of LoRA that compute something else, by the fields that ask for them.
_OTHER_LORA = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
# How PEFT draws the matrices at first, where it leaves the model's own weights as they are.
_INITIAL = (True, False, None, "gaussian", "orthogonal", "eva")


def modules_of(config: Config) -> dict[str, str]:
    """Our kernel's flat name -> transformers' name of the module that holds it."""
    network = network_of(config)
    wrapper, is_used = "", lambda ours: True
    if network is not config:
        is_used = encoder_of(network).is_used
        if isinstance(network, CausalConfig):
            wrapper = causal.FAMILIES[network.architecture].wrapper
    names = format_of(network).weight_names(network)
    return {
        ours: theirs.removeprefix(wrapper).removesuffix(".weight")
        for theirs, (ours, _) in names.items()
        if ours.endswith("/kernel") and is_used(ours)
    }


def network_of(config: Config) -> NetworkConfig:
    """That of an embedding model, or the config itself."""
    return config.network if isinstance(config, EmbeddingConfig) else config


def read_lora(where: object, config: Config, facts: Mapping[str, Any], tensors: Tensors) -> Leaves:
    """The leaves of PEFT's LoRA.

    Raises:
      ValueError: a variant of LoRA, or tensors of something else, that is not computed here; or
        settings that say otherwise than the tensors.
    """
    for field in _OTHER_LORA:
        if facts.get(field):
            raise ValueError(f"{where}: {field} is {facts[field]!r}, a LoRA that is not done here.")
    if (begun := facts.get("init_lora_weights")) not in _INITIAL:
        raise ValueError(
            f"{where}: init_lora_weights is {begun!r}, which changes the model's own weights. Of "
            "PiSSA, CorDA and OLoRA PEFT itself makes a plain LoRA, as it saves them: see "
            "path_initial_model_for_weight_conversion."
        )
    if facts.get("bias", "none") != "none":
        raise ValueError(f"{where}: bias is {facts['bias']!r}; only weights of LoRA are read.")
    kernels = {module: kernel for kernel, module in modules_of(config).items()}
    leaves: Leaves = {}
    for name, values in tensors.items():
        match = _LORA.fullmatch(name.removeprefix(_BEFORE))
        if match and _makes_no_vector(config, match[1]):
            continue
        kernel = kernels.get(match[1]) if match else None
        if match is None or kernel is None:
            raise ValueError(_unknown(where, name))
        if values.ndim != 2:
            raise ValueError(f"{where}: {name} is {list(values.shape)}, no matrix. Fetch it again.")
        ending, module = LORA_A if match[2] == "A" else LORA_B, match[1]
        leaves[kernel + ending] = np.asarray(values, np.float32).T
        rank = values.shape[0 if match[2] == "A" else 1]
        peft_settings.check_module(where, facts, module)
        peft_settings.check_rank(where, facts, module, rank)
        usual = facts.get("lora_alpha", 8)
        alpha = peft_settings.of_module(where, facts, "alpha_pattern", module, usual)
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            raise ValueError(f"{where}: lora_alpha must be a number, not {alpha!r}.")
        scale = alpha / (rank**0.5 if facts.get("use_rslora") else rank)
        leaves[kernel + LORA_SCALE] = np.float32(scale)
    return leaves


def write_lora(config: Config, leaves: Tensors) -> tuple[dict[str, Any], Leaves]:
    """PEFT's settings and tensors of a LoRA."""
    modules = modules_of(config)
    tensors: Leaves = {}
    for name, values in leaves.items():
        for ending, letter in ((LORA_A, "A"), (LORA_B, "B")):
            if name.endswith(ending):
                module = modules[name.removesuffix(ending)]
                tensors[f"{_BEFORE}{module}.lora_{letter}.weight"] = _contiguous(values.T)
    changed = [name.removesuffix(LORA_A) for name in leaves if name.endswith(LORA_A)]
    ranks = {modules[name]: leaves[name + LORA_A].shape[1] for name in changed}
    alphas = {
        modules[name]: round(float(leaves[name + LORA_SCALE]) * ranks[modules[name]], 5)
        for name in changed
    }
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {module: each for module, each in alphas.items() if each != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": is_conv1d(config),
        "target_modules": targets(modules, changed),
    }, tensors


def read_ia3(where: object, config: Config, facts: Mapping[str, Any], tensors: Tensors) -> Leaves:
    """The leaves of PEFT's IA3.

    Raises:
      ValueError: tensors of something else, or other settings than these.
    """
    kernels = {module: kernel for kernel, module in modules_of(config).items()}
    leaves: Leaves = {}
    for name, values in tensors.items():
        module = name.removeprefix(_BEFORE).removesuffix(_IA3)
        if _makes_no_vector(config, module):
            continue
        kernel = kernels.get(module)
        if kernel is None or not name.endswith(_IA3) or values.ndim != 2 or 1 not in values.shape:
            raise ValueError(_unknown(where, name))
        peft_settings.check_module(where, facts, module)
        ending = OUT_SCALE if values.shape[1] == 1 else IN_SCALE
        if peft_settings.is_feedforward(where, facts, module) is (ending == OUT_SCALE):
            raise ValueError(
                f"{where}: {name} is {list(values.shape)}, which is not what feedforward_modules "
                f"say of it. {peft.APART}"
            )
        leaves[kernel + ending] = np.asarray(values, np.float32).ravel()
    return leaves


def write_ia3(config: Config, leaves: Tensors) -> tuple[dict[str, Any], Leaves]:
    """PEFT's settings and tensors of an IA3."""
    modules = modules_of(config)
    outputs, inputs = (
        {name.removesuffix(end): x for name, x in leaves.items() if name.endswith(end)}
        for end in (OUT_SCALE, IN_SCALE)
    )
    tensors = {_ia3(modules[name]): _contiguous(x[:, None]) for name, x in outputs.items()}
    tensors |= {_ia3(modules[name]): _contiguous(x[None, :]) for name, x in inputs.items()}
    feedforward = targets(modules, list(inputs))
    return {
        "peft_type": "IA3",
        "fan_in_fan_out": is_conv1d(config),
        "target_modules": targets(modules, list(outputs)) + feedforward,
        "feedforward_modules": feedforward,
    }, tensors


def is_conv1d(config: Config) -> bool:
    """Whether the model's kernels are GPT-2's, stored as [in, out]."""
    kernel = next(name for name in modules_of(config) if "/layers_" in name)
    network = network_of(config)
    return not format_of(network).is_transposed(network, kernel)


def targets(modules: Mapping[str, str], changed: list[str]) -> list[str]:
    """What PEFT's settings call these kernels: by the ends of their modules, where that is all."""
    ends = sorted({modules[name].rpartition(".")[2] for name in changed})
    alike = {name for name, module in modules.items() if module.rpartition(".")[2] in ends}
    return ends if alike == set(changed) else sorted(modules[name] for name in changed)


def _makes_no_vector(config: Config, module: str) -> bool:
    """Whether a BERT has a module to classify, or to fill masks, alone: PEFT changes it too."""
    return isinstance(network_of(config), BertConfig) and not bert.is_part(f"{module}.")


def _ia3(module: str) -> str:
    return _BEFORE + module + _IA3


def _contiguous(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _unknown(where: object, name: str) -> str:
    if _LORA.search(name) or name.endswith(_IA3):
        return (
            f"{where} holds {name}, which changes nothing that can be changed in this model: load "
            "the model that the adapter was made for."
        )
    return (
        f"{where} holds {name}, which no adapter adds to a model: weights of the model itself "
        "(modules_to_save, save_embedding_layers) and further kinds of LoRA are not read."
    )
