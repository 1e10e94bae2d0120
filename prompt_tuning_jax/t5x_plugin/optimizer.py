"""What trains under T5X: the rules of `prompt_tuning_jax.optim`, as a T5X optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from flax.core import FrozenDict, freeze, unfreeze
from t5x import checkpoints, optimizers

from prompt_tuning_jax import optim
from prompt_tuning_jax.params import flatten, label_params, unflatten

FROZEN = "frozen"


def trained_by(rules: Sequence[optim.Rule]) -> optimizers.OptaxWrapper:
    """Each rule's optimizer for the parameters it matches; what no rule matches never moves.

    Frozen parameters have no optimizer state. The learning rate is the rules' own: T5X's schedule
    does not reach an optax optimizer.

    Raises:
      ValueError: (when the model is built) a rule matches no parameter.
    """

    def labels(params: Mapping[str, Any]) -> Mapping[str, Any]:
        flat = flatten(unfreeze(params))
        trained = label_params(list(flat), rules)
        tree = unflatten({name: trained.get(name, FROZEN) for name in flat})
        # optax compares tree structures, in which a FrozenDict is no dict.
        return freeze(tree) if isinstance(params, FrozenDict) else tree

    transforms = {str(i): rule[1] for i, rule in enumerate(rules)}
    return optimizers.OptaxWrapper(
        optax.partition(transforms | {FROZEN: optax.set_to_zero()}, labels)
    )


def first_step(checkpoint: str) -> int:
    """The global step that a T5X checkpoint has by its name: N of `.../checkpoint_N`.

    Raises:
      ValueError: the path does not end in `checkpoint_N`.
    """
    try:
        return checkpoints.get_step_from_checkpoint_dir(checkpoint.rstrip("/"))[1]
    except ValueError as error:
        raise ValueError(
            f"INITIAL_CHECKPOINT_PATH {checkpoint!r} must end in checkpoint_N, as T5X names "
            "checkpoints: point it at one checkpoint, not at the directory of a run."
        ) from error


def _replicated(state: optax.FactoredState, params_axes: Any) -> optax.FactoredState:
    """No axis of Adafactor's state is split: factored or of a prompt's size, it is small."""
    del params_axes
    return jax.tree.map(lambda _: None, state)


# T5X has no rule for the state of optax's Adafactor, the paper's optimizer.
optimizers.OptaxStatePartitionRules._RULES.setdefault(optax.FactoredState, _replicated)
