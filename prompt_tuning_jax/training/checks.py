"""What a run cannot be, found before anything is placed: its splits, its labels, what trains."""

import warnings

import jax

from prompt_tuning_jax.checkpoints.quantize import is_quantized
from prompt_tuning_jax.data.encoding import check_distinct
from prompt_tuning_jax.data.lost_text import warn_of_lost_text
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.adapters.choice import without_leaves
from prompt_tuning_jax.methods.assemble import folded
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.params import PROMPT_NAME, is_of_prompt, without_prompt
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.task_config import choose_predictions, lengths_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.step_types import Params
from prompt_tuning_jax.vocabularies import Vocabulary


def check_task(config: TrainConfig, task: Task, vocabulary: Vocabulary) -> dict[str, int]:
    """Checks the splits, the labels and how to evaluate; returns the feature lengths."""
    task.split("train")
    # A task may have no validation split, but a split that was asked for must be there.
    usual = settings_of(TrainConfig)["eval_split"].default
    if config.eval_split in task.splits or config.eval_split != usual:
        task.split(config.eval_split)
        if task.metrics:
            choose_predictions(task, config.predictions)
    else:
        say_nothing_is_evaluated(config, task)
    lengths = lengths_of(config.feature_lengths)
    check_distinct(task.verbalizers or (), vocabulary, lengths["targets"])
    if hosts.is_first():
        read = [name for name in ("train", config.eval_split) if name in task.splits]
        warn_of_lost_text(task, read, vocabulary)
    return lengths


def say_nothing_is_evaluated(config: TrainConfig, task: Task) -> None:
    """Warns that there is no validation split; refuses a setting that would then do nothing."""
    remedy = held_out_remedy(task)
    if (name := by_evaluations(config)) is not None:
        raise ValueError(
            f"{spelled(name)} goes by evaluations, but {task.name!r} has no validation split: "
            f"leave it out.{remedy}"
        )
    warnings.warn(
        f"{task.name!r} has no validation split: nothing is evaluated, and what is called the best "
        f"prompt is the last.{remedy}",
        stacklevel=2,
    )


def by_evaluations(config: TrainConfig) -> str | None:
    """A setting that without evaluations would do nothing; None where there is none."""
    names = (name for name in ("patience", "halve_at") if getattr(config, name) is not None)
    return next(names, None)


def held_out_remedy(task: Task) -> str:
    """What makes a validation split of a task of files; nothing of others."""
    if task.input_template is None:
        return ""
    return f" {spelled('validation_share', 0.1)} holds examples of the train file out for it."


def check_prompt_trains(prompt_length: int, frozen: Params) -> None:
    """Refuses rules that leave the prompt where it starts."""
    if PROMPT_NAME in folded({name: x for name, x in frozen.items() if is_of_prompt(name)}):
        raise ValueError(
            f"{spelled('prompt_length')} is {prompt_length}, but no {spelled('trainable')} rule "
            f"matches {PROMPT_NAME!r}: add a rule for it, or set {spelled('prompt_length', 0)}."
        )


def check_weights_train(model: FrozenModel, trainable: Params, frozen: Params) -> None:
    """Refuses to train weights of a model that is int8 or stacked, which cannot be saved."""
    if not without_leaves(without_prompt(trainable)):
        return
    for name, in_the_way in (
        (spelled("model_dtype", "int8"), is_quantized(frozen | trainable)),
        (spelled("scan_layers"), model.config.scan_layers),
    ):
        if in_the_way:
            raise ValueError(
                f"With {name} only the prompt can train: leave that out, or leave "
                f"{spelled('prompt_length')} above 0 and {spelled('trainable')} unset."
            )


def check_private(config: TrainConfig, trainable: Params) -> None:
    """Refuses to train more than a prompt privately, or on several hosts.

    A gradient of each example is in memory, and a host that did not know the secret of the others
    would add other noise.
    """
    if not config.is_private:
        return
    if (count := jax.process_count()) > 1:
        raise ValueError(f"Private training runs on one host, and these are {count}: start one.")
    others = sorted(name for name in trainable if not is_of_prompt(name))
    if others:
        raise ValueError(
            f"Only a prompt can be trained privately, not {', '.join(others[:4])}: leave "
            f"{spelled('trainable')} out."
        )
