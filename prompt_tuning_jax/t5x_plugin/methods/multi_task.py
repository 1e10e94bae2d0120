"""Prompts of several tasks with a part in common (`methods.shared_parts`), in one batch.

An example's first input token says its task: the sentinel <extra_id_i> of task i, as the
`task_index_` tasks have it. The network does not see that token, but the task's prompt.

N tasks   B batch   T input tokens   P prompt length   D embed
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Array, Float

from prompt_tuning_jax.methods import shared_parts
from prompt_tuning_jax.methods.shared_parts import COMMON, FORMS, Parts, Sharing
from prompt_tuning_jax.params import (
    PROMPT_FOLDER,
    PROMPT_NAME,
    FlatParams,
    flatten,
    is_of_prompt,
    with_prompt,
)
from prompt_tuning_jax.prompts import PromptBank
from prompt_tuning_jax.t5x_plugin.files import TASK
from prompt_tuning_jax.t5x_plugin.methods.method import Arrays, Facts, Method, PromptStart
from prompt_tuning_jax.t5x_plugin.methods.network import Arguments, Network

INPUTS = "encoder_input_tokens"


class MultiTask(Method):
    """A part that all tasks train, and one of each task's own."""

    pattern = f"{PROMPT_FOLDER}(?:{COMMON}|own|columns|rows)"

    def __init__(
        self,
        tasks: str | Sequence[str],
        vocabulary: seqio.Vocabulary,
        num_tasks: int | None = None,
        share: str = "add",
        rows: int | None = None,
        rank: int = 1,
    ):
        """Chooses how they share.

        Args:
          tasks: their names, in the order of their sentinels; or of a mixture whose examples begin
            with sentinels.
          vocabulary: the model's.
          num_tasks: how many there are in a mixture.
          share: one of `shared_parts.FORMS`.
          rows: of a concatenation, those in common; None for half of the prompt.
          rank: of a product.

        Raises:
          ValueError: no such form, or fewer than two tasks.
        """
        self._names = None if isinstance(tasks, str) else list(tasks)
        self._count = (num_tasks or 0) if self._names is None else len(self._names)
        if self._count < 2:
            raise ValueError(
                f"{tasks!r} is not several tasks: give MIXTURE_OR_TASK_NAME a list of names, or a "
                "mixture whose examples begin with sentinels, and NUM_TASKS."
            )
        if share not in FORMS:
            raise ValueError(f"SHARE is {share!r}: choose among {FORMS}.")
        self._first = vocabulary.vocab_size - 1  # <extra_id_0>; the next ones are before it
        self._share, self._rows, self._rank = share, rows, rank

    def changed(self, model: Any) -> Any:
        whole = model.module  # with one prompt, which makes as many as there are tasks
        length = whole.prompt().length
        bank = functools.partial(PromptBank, num_prompts=self._count, length=length)
        model = copy.copy(model)
        model.module = Network(whole.clone(prompt=bank), whole, self._with_parts, self._bound)
        model.FEATURE_CONVERTER_CLS = _checking(
            model.FEATURE_CONVERTER_CLS, self._first, self._count
        )
        return model

    def _sharing(self, length: int) -> Sharing:
        rows = length // 2 if self._rows is None else self._rows
        if self._share == "concatenate" and not 0 < rows < length:
            raise ValueError(
                f"SHARE_ROWS is {rows}: of {length} rows some are in common and some are not."
            )
        return Sharing(self._share, rows, self._rank)

    def _with_parts(self, key: jax.Array, params: FlatParams) -> FlatParams:
        parts = self._begun(key, params[PROMPT_NAME])
        others = {name: x for name, x in params.items() if name != PROMPT_NAME}
        return others | {PROMPT_FOLDER + name: x for name, x in parts.items()}

    def _begun(self, key: jax.Array, prompt_PxD: Float[Array, "P D"]) -> Parts:
        """All tasks' prompts begin at one."""
        prompts_NxPxD = jnp.broadcast_to(prompt_PxD[None], (self._count, *prompt_PxD.shape))
        return shared_parts.start(self._sharing(len(prompt_PxD)), key, prompts_NxPxD)

    def _bound(self, params: Any, arguments: Arguments) -> tuple[Any, Arguments]:
        """The bank of all tasks' prompts, and inputs without the token that chooses among them."""
        params = with_prompt(params, self._folded(flatten(params)))
        tokens_BxT = arguments[INPUTS]
        arguments = {**arguments, INPUTS: tokens_BxT[:, 1:]}
        if "encoded" not in arguments:  # `decode` has been given what the prompts made
            # T5X makes its cache with tokens that are none of a task's.
            ids = jnp.clip(self._first - tokens_BxT[:, 0], 0, self._count - 1)
            arguments["prompt_ids"] = ids.astype(jnp.int32)
        return params, arguments

    def _folded(self, flat: FlatParams) -> jax.Array:
        return shared_parts.fold(self._share, _parts(flat))

    def start(self, shapes: Mapping[str, tuple[int, ...]], prompt: PromptStart) -> Arrays:
        shape = jax.eval_shape(
            lambda: self._folded(
                {name: jnp.zeros(x) for name, x in shapes.items() if is_of_prompt(name)}
            )
        ).shape
        parts = self._begun(jax.random.key(0), jnp.asarray(prompt(shape[1:])))
        return {PROMPT_FOLDER + name: np.asarray(x) for name, x in parts.items()}

    def write(self, leaves: Arrays, facts: Facts) -> None:
        """A prompt file for each task."""
        for i, values in enumerate(np.asarray(self._folded(leaves))):
            name = f"{facts.task} {i}" if self._names is None else self._names[i]
            facts.write_prompt(values, TASK.format(i), name)


def _parts(flat: FlatParams) -> Parts:
    return {n.removeprefix(PROMPT_FOLDER): x for n, x in flat.items() if is_of_prompt(n)}


def _checking(converter: type[seqio.FeatureConverter], first: int, count: int) -> Any:
    """`converter`, which refuses an example that does not begin with one of `count` sentinels."""

    @seqio.map_over_dataset
    def check(features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        token = features[INPUTS][0]
        is_known = tf.logical_and(token <= first, token > first - count)
        message = (
            f"inputs must begin with the sentinel of a task, one of the {count} ids from {first} "
            "down, so that its prompt can be chosen; these begin with"
        )
        with tf.control_dependencies([tf.debugging.Assert(is_known, [message, token])]):
            return {**features, INPUTS: tf.identity(features[INPUTS])}

    class Checking(converter):
        def _convert_features(self, ds: Any, task_feature_lengths: Any) -> Any:
            return check(super()._convert_features(ds, task_feature_lengths))

    return Checking
