"""The T5Config that a T5X checkpoint's shapes imply; T5X keeps a model's config elsewhere."""

from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.checkpoints.stored_array import StoredArray
from prompt_tuning_jax.checkpoints.t5x.weights import LAYER
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.models.t5.scan import BIAS

_SIDE_BIAS = f"encoder/side_{BIAS}"
_FROM_SHAPES = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "relpos_buckets",
    "layer_relpos_bias",
    "logits_via_embedding",
)


def infer_config(
    place: str, weights: Mapping[str, StoredArray], dtype: Any, eos_id: int | None = None
) -> T5Config:
    """The config whose shapes these weights have.

    Shapes do not tell activations: a gated MLP is taken as ("gelu", "linear"), as T5 1.1 and mT5
    have it, a plain one as ("relu",), as T5 1.0 has it. Without an output layer the embedding is
    used, and decoder outputs are scaled, as in T5 1.0. Dropout is 0. LongT5's local attention has
    the shapes of full attention, and is taken for that. Padding and the decoder's start are 0, as
    everywhere in T5X; the end is `eos_id`, by default T5's.

    Raises:
      ValueError: they are not the weights of an encoder-decoder T5.
    """
    own = f"encoder/layers_0/{BIAS}"
    try:
        vocab_size, emb_dim = weights["token_embedder/embedding"].shape
        num_heads, relpos_buckets = weights[own if own in weights else f"encoder/{BIAS}"].shape
        _, joined = weights["encoder/layers_0/attention/query/kernel"].shape
        mlp_dim, _ = weights["encoder/layers_0/mlp/wo/kernel"].shape
    except KeyError as error:
        raise ValueError(
            f"{place} is a checkpoint, but not of an encoder-decoder T5: it has no "
            f"{error.args[0]}; it has {', '.join(sorted(weights)[:3])}, ..."
        ) from error
    except ValueError as error:
        raise ValueError(f"{place} is not of a T5: a weight has another rank ({error}).") from error
    if joined % num_heads:
        raise ValueError(
            f"{place}: {joined} query features do not divide over the {num_heads} heads that the "
            "relative-position bias has."
        )
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=joined // num_heads,
        mlp_dim=mlp_dim,
        num_encoder_layers=_depth("encoder", weights),
        num_decoder_layers=_depth("decoder", weights),
        mlp_activations=("gelu", "linear") if _is_gated(weights) else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in weights,
        relpos_buckets=relpos_buckets,
        layer_relpos_bias=own in weights,
        encoder_attention="transient_global" if _SIDE_BIAS in weights else "full",
        eos_id=1 if eos_id is None else eos_id,
        dtype=dtype,
    )


def check_config(place: str, found: T5Config, asked: T5Config) -> None:
    """Refuses a config whose shapes are not the checkpoint's, naming the fields.

    Raises:
      ValueError: a field differs; or layers are asked for in one stack.
    """
    if asked.scan_layers:
        raise ValueError(
            "A T5X checkpoint is loaded with its layers apart: ask for scan_layers=False, and "
            "stack the weights with t5.scan.stack_layers."
        )
    wrong = [f for f in _FROM_SHAPES if getattr(found, f) != getattr(asked, f)]
    gated = len(found.mlp_activations), len(asked.mlp_activations)
    faults = [f"{f} is {getattr(found, f)}, not {getattr(asked, f)}" for f in wrong]
    if gated[0] != gated[1]:
        faults.append(f"mlp_activations are {gated[0]}, not {gated[1]}")
    if faults:
        raise ValueError(
            f"{place} is not the model asked for: {'; '.join(faults)}. Correct the config, or pass "
            "none to take the checkpoint's own."
        )


def _depth(stack: str, weights: Mapping[str, StoredArray]) -> int:
    layers = {int(m[2]) for n in weights if (m := LAYER.fullmatch(n)) and m[1] == stack}
    return max(layers, default=-1) + 1


def _is_gated(weights: Mapping[str, StoredArray]) -> bool:
    return "encoder/layers_0/mlp/wi_0/kernel" in weights
