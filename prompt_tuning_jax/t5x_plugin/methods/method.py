"""What a method says of itself. Prompt tuning is the method of a run that chooses none."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import is_prompt
from prompt_tuning_jax.t5x_plugin.files import PROMPTS, local_directory
from prompt_tuning_jax.tuned_prompt import TunedPrompt

Arrays = Mapping[str, np.ndarray]
"""Flat names -> values."""
PromptStart = Callable[[tuple[int, int]], np.ndarray]
"""(P, D) -> a prompt."""


class Facts(NamedTuple):
    """What is known of the leaves that a run saves.

    Attributes:
      model_dir: MODEL_DIR.
      base_model: the checkpoint that the run started from.
      fingerprint: of its weights, where known.
      task: MIXTURE_OR_TASK_NAME.
    """

    model_dir: str
    step: int
    config: T5Config
    layout: str
    base_model: str
    fingerprint: str | None
    task: Any

    def write_prompt(self, values: np.ndarray, folder: str = "", task: Any = None) -> None:
        """A prompt file of the step, MODEL_DIR/prompts/STEP or in a folder of it."""
        place = os.path.join(self.model_dir, PROMPTS, str(self.step), folder)
        with local_directory(place) as directory:
            save_prompt(
                directory,
                TunedPrompt(values, self.layout, visibility=self.config.prompt_visibility),
                base_model=self.base_model,
                fingerprint=self.fingerprint,
                task=task or self.task,
                step=self.step,
            )


class Method:
    """Prompt tuning; other methods say otherwise.

    Attributes:
      pattern: a regular expression for the names of what trains.
      rate, optimizer: the usual ones; the optimizer is one of `optim.OPTIMIZERS`.
    """

    pattern = ".*/prompt"
    rate = 0.3
    optimizer = "adafactor"

    def changed(self, model: Any) -> Any:
        """A model of T5X's that trains by the method."""
        return model

    def start(self, shapes: Mapping[str, tuple[int, ...]], prompt: PromptStart) -> Arrays:
        """First values of leaves; others keep those that the network's initialisers made.

        Args:
          shapes: of all of the model's parameters, by their flat names.
        """
        return {name: prompt(shape) for name, shape in shapes.items() if is_prompt(name)}

    def write(self, leaves: Arrays, facts: Facts) -> None:
        """Saves what was tuned as a small file, or several; one process does it.

        Args:
          leaves: all that are no weights of the base checkpoint.
        """
        for name in filter(is_prompt, leaves):
            facts.write_prompt(leaves[name])
