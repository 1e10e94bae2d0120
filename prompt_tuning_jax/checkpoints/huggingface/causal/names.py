"""Every weight of a causal model: its Hugging Face name and ours."""

import re
from collections.abc import Collection

from prompt_tuning_jax.checkpoints.huggingface.causal.families import FAMILIES
from prompt_tuning_jax.checkpoints.stored_array import Shape, add_once
from prompt_tuning_jax.models.causal import CausalConfig
from prompt_tuning_jax.models.causal.weights import shapes

OUTPUT = "lm_head.weight"
_LAYER = re.compile(r"decoder/layers_(\d+)/(.+)")
# Leaves of the parameter tree that Hugging Face calls "weight".
_WEIGHTS = ("kernel", "scale", "embedding")
# Constants that older files keep beside the weights: masks, and how fast rotary positions turn.
_CONSTANTS = re.compile(r"(.*\.)?(attn\.(masked_)?bias|rotary_emb\.inv_freq)")
_COMPILED = "_orig_mod."  # torch.compile's mark, anywhere in a name


def weight_names(config: CausalConfig) -> dict[str, tuple[str, Shape]]:
    """Hugging Face name -> (our name, shape there) of every weight the config's model has."""
    table = FAMILIES[config.architecture]
    names = {}
    for ours, shape in shapes(config).items():
        layer = _LAYER.fullmatch(ours)
        number, within = (layer[1], layer[2]) if layer else ("", ours)
        folder, _, leaf = within.rpartition("/")
        theirs = table.names[folder].format(i=number)
        end = "weight" if leaf in _WEIGHTS else leaf
        wrapper = "" if folder == "decoder/logits_dense" else table.wrapper
        stored = shape[::-1] if is_transposed(config, ours) else shape
        names[f"{wrapper}{theirs}.{end}"] = (ours, stored)
    return names


def is_transposed(config: CausalConfig, ours: str) -> bool:
    """Whether the weight of this name is stored as [out, in]: of GPT-2, the output layer alone."""
    every = FAMILIES[config.architecture].transposed
    return ours.endswith("/kernel") and (every or ours.endswith("logits_dense/kernel"))


def plain_names(
    place: object, names: Collection[str], wrapper: str, output: str = OUTPUT
) -> dict[str, str]:
    """Name in a model -> name in a file, which may lack the wrapper, or have a compiler's mark.

    Constants that are no weights are left out.

    Args:
      wrapper: what stands before all names but the output layer's.

    Raises:
      ValueError: a weight is there twice.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = name.replace(_COMPILED, "").removeprefix("module.")
        if _CONSTANTS.fullmatch(plain):
            continue
        if plain != output:
            plain = wrapper + plain.removeprefix(wrapper)
        add_once(found, plain, name, place)
    return found
