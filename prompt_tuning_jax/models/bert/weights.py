"""Every weight of a BERT: its name, its shape and its logical axes, in one table.

    token_embedder/embedding                       [V, D]
    position_embedder/embedding                    [M, D]
    type_embedder/embedding                        [C, D]
    embedding_norm/scale                           [D]        /bias, as of all norms
    encoder/layers_0/attention/query/kernel        [D, J]     /bias [J], as of all kernels
    encoder/layers_0/attention/key/kernel          [D, J]     and value
    encoder/layers_0/attention/out/kernel          [J, D]
    encoder/layers_0/attention_norm/scale          [D]
    encoder/layers_0/mlp/wi/kernel                 [D, F]
    encoder/layers_0/mlp/wo/kernel                 [F, D]
    encoder/layers_0/mlp_norm/scale                [D]

D embed   V vocabulary   M positions   C token types   F mlp   J heads * head dim, which is D
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.models.bert.config import BertConfig
from prompt_tuning_jax.models.causal.weights import variables

_AXES = {
    "V": "vocab",
    "D": "embed",
    "M": "positions",
    "C": "positions",
    "J": "joined_kv",
    "F": "mlp",
}
_KERNELS = {
    "attention/query": "DJ",
    "attention/key": "DJ",
    "attention/value": "DJ",
    "attention/out": "JD",
    "mlp/wi": "DF",
    "mlp/wo": "FD",
}
_NORMS = ("attention_norm", "mlp_norm")
EMBEDDING_NAME = "token_embedder/embedding"


def shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight."""
    sizes = {
        "V": config.vocab_size,
        "D": config.emb_dim,
        "M": config.positions,
        "C": config.token_types,
        "J": config.emb_dim,
        "F": config.mlp_dim,
    }
    return {name: tuple(sizes[x] for x in letters) for name, letters in _letters(config).items()}


def abstract_variables(
    config: BertConfig, prompt_shape: tuple[int, ...] | None
) -> Mapping[str, Mapping[str, Any]]:
    """Shapes and logical axes, as `models.family` wants them."""
    axes = {name: tuple(_AXES[x] for x in word) for name, word in _letters(config).items()}
    return variables(shapes(config), axes, prompt_shape)


def _letters(config: BertConfig) -> dict[str, str]:
    """Name -> the letters of the weight's dimensions."""
    found = {
        EMBEDDING_NAME: "VD",
        "position_embedder/embedding": "MD",
        "type_embedder/embedding": "CD",
        **_norm("embedding_norm"),
    }
    for i in range(config.num_layers):
        layer = f"encoder/layers_{i}"
        for name, letters in _KERNELS.items():
            found |= {f"{layer}/{name}/kernel": letters, f"{layer}/{name}/bias": letters[-1]}
        for name in _NORMS:
            found |= _norm(f"{layer}/{name}")
    return found


def _norm(name: str) -> dict[str, str]:
    return {f"{name}/scale": "D", f"{name}/bias": "D"}
