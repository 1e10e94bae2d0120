"""Leaves within the frozen network, by the methods of `methods.adapters`: IA3, prefixes, and so on.

There is no prompt beside them. What is tuned is saved as this library's own trainer saves it:

MODEL_DIR/adapters/1101000    as `load_adapter`, `--adapter` and PEFT read it
"""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter as Tuned
from prompt_tuning_jax.checkpoints.adapters.adapter_file import save_adapter
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.methods.adapters.method import Options
from prompt_tuning_jax.params import FlatParams
from prompt_tuning_jax.t5x_plugin.files import ADAPTERS, local_directory
from prompt_tuning_jax.t5x_plugin.methods.method import Arrays, Facts, Method, PromptStart
from prompt_tuning_jax.t5x_plugin.methods.network import Network
from prompt_tuning_jax.tuned_prompt import FINGERPRINT


class Adapter(Method):
    """One of `methods.adapters`, by its name."""

    def __init__(
        self,
        name: str,
        length: int = Options().length,
        stack: str = Options().stack,
        rank: int = Options().rank,
        alpha: float = Options().alpha,
        targets: Sequence[str] | None = None,
    ):
        """Refuses, with a ValueError, a name that is none of `methods.adapters.choice.NAMES`.

        Args:
          length, stack, rank, alpha, targets: see `methods.adapters.method.Options`.
        """
        if name not in choice.NAMES:
            raise ValueError(f"no adapter is called {name!r}: choose among {choice.NAMES}.")
        self.name = name
        self.pattern = choice.trainable_pattern(name)
        self.rate = choice.METHODS[name].RATE
        self.optimizer = choice.METHODS[name].OPTIMIZER
        self._options = Options(rank, alpha, targets=targets, length=length, stack=stack)

    def changed(self, model: Any) -> Any:
        network = model.module.clone(prompt=None)
        if network.scan_layers:
            raise ValueError(
                f"{self.name} changes each layer by itself: leave out config.T5Config.scan_layers."
            )
        model = copy.copy(model)
        model.module = Network(network, network, self._with_leaves)
        return model

    def _with_leaves(self, key: jax.Array, params: FlatParams) -> FlatParams:
        key = jax.random.fold_in(key, 2)  # others than the weights' numbers
        return params | choice.start(self.name, key, params, self._options)

    def start(self, shapes: Mapping[str, tuple[int, ...]], prompt: PromptStart) -> Arrays:
        return {}

    def write(self, leaves: Arrays, facts: Facts) -> None:
        told = {FINGERPRINT: facts.fingerprint, "task": facts.task, "step": facts.step}
        tuned = Tuned(self.name, leaves, {k: x for k, x in told.items() if x is not None})
        place = os.path.join(facts.model_dir, ADAPTERS, str(facts.step))
        with local_directory(place) as directory:
            save_adapter(directory, tuned, facts.config, facts.base_model)
