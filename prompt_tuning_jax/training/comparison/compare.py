"""The methods that use one pre-trained model for a task, trained and scored alike.

rows = pt.compare(task="bundled_narrator", model_dir="runs/compare", prompt_length=20,
                  methods=["no_prompt", "prompt", "lora", "model"], seeds=3)
"""

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, hand_written_prompts
from prompt_tuning_jax.data.task import Task, target_text
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.methods.adapters.choice import NAMES as ADAPTERS
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.compare_config import CompareConfig
from prompt_tuning_jax.settings.parts.method import BOTH, OF_LENGTH, OWN
from prompt_tuning_jax.settings.parts.retrieval import refuse_retrieval
from prompt_tuning_jax.settings.setting import settings_of
from prompt_tuning_jax.settings.task_config import TaskConfig, lengths_of, load_task
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings, directory_of_run
from prompt_tuning_jax.train import train, train_many
from prompt_tuning_jax.training.comparison.costs import costs_of, stored_bytes
from prompt_tuning_jax.training.comparison.report import Row, show_row, write_report
from prompt_tuning_jax.training.comparison.splits import with_test_split
from prompt_tuning_jax.training.monitor import NotFiniteError
from prompt_tuning_jax.training.set_up import TrainResult, open_model
from prompt_tuning_jax.training.transfer.nearest import check_apart

UNTRAINED = ("majority", "no_prompt", "hand_written")
TRAINED = ("prompt", *ADAPTERS, BOTH, "model")
USUAL = ("majority", "no_prompt", "prompt", "lora", "ia3", "model")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all methods share: the model, the task with a test split, and how a run is made."""

    config: CompareConfig
    base: TrainConfig
    model: FrozenModel
    task: Task

    def score(self, split: str, model: FrozenModel, prompt: Any = None, text: Any = None) -> float:
        """By the task's metric.

        Args:
          text: a hand-written prompt.
        """
        limits = {"test": self.config.test_limit, "validation": self.config.eval_limit}
        found = evaluate_task(
            model,
            self.task,
            split,
            prompt,
            text_prompt=text,
            predictions=self.base.predictions,
            feature_lengths=lengths_of(self.base.feature_lengths),
            batch_size=self.base.batch_size,
            limit=limits[split],
        )
        return found.scores[self.task.best_metric]

    def best_validation(self, result: TrainResult) -> float:
        return max((scores[self.task.best_metric] for scores in result.history), default=-np.inf)


def compare(config: CompareConfig | None = None, **options: Any) -> list[Row]:
    """Trains each method from several seeds, and scores it on the test split.

    A checkpoint, a learning rate and a hand-written prompt are chosen on validation. Where a task
    has no test split, its validation is the test; where that leaves none to choose by, a tenth of
    train is held out. model_dir holds METHOD/seedN/ of each run (METHOD/rateX/seedN/ where several
    learning rates are tried), comparison.json and comparison.png; started again, it goes on.

    Args:
      config, options: as `train` takes them, and `settings.compare_config`.

    Raises:
      ValueError: an unknown method; a setting is wrong; the task has no metric to compare by.
    """
    config = dataclasses.replace(config or CompareConfig(), **options)
    methods = chosen_methods(config)
    setting = set_up(config, methods)
    rows = []
    for method in methods:
        ways: Mapping[str, Callable[[Setting], Row]] = {
            "majority": majority,
            "no_prompt": no_prompt,
            "hand_written": hand_written,
        }
        row = ways[method](setting) if method in ways else tuned(setting, method)
        show_row(row)
        rows.append(row)
    fields = settings_of(CompareConfig)
    given = {name: getattr(config, name) for name, field in fields.items()}
    given = {name: x for name, x in given.items() if x is not fields[name].default}
    told = setting.task.name, setting.task.best_metric, rows, given
    write_report(Path(config.model_dir), *told)
    return rows


def chosen_methods(config: CompareConfig) -> list[str]:
    """The methods that are asked for, in their order; words may hold several, with commas."""
    methods = [name for word in config.methods or USUAL for name in word.split(",")]
    for name in (*methods, *(config.rates or ()), *(config.method_steps or ())):
        if name not in UNTRAINED + TRAINED:
            raise UsageError(
                f"{spelled('methods')}: {name!r} is none of {', '.join(UNTRAINED + TRAINED)}."
            )
    return list(dict.fromkeys(methods))


def set_up(config: CompareConfig, methods: Sequence[str]) -> Setting:
    """The model, opened once, and the task with a test split."""
    base = TrainConfig(**{name: getattr(config, name) for name in settings_of(TrainConfig)})
    check_all_settings(config, base, methods)
    refuse_retrieval(base, "A comparison")
    model = open_model(base, sharding.make_mesh(base.mesh))
    task = with_test_split(load_task(base, model.vocabulary))
    if not task.metrics:
        raise ValueError(f"{task.name!r} has no metric to compare by: set {spelled('metric')}.")
    # From here on the task is the object; what named its files is said.
    files = {
        name: field.default
        for name, field in settings_of(TaskConfig).items()
        if name not in ("model", "feature_lengths", "vocabulary")
    }
    base = dataclasses.replace(base, **{**files, "task": task}, model=model)
    return Setting(config, base, model, task)


def check_all_settings(config: CompareConfig, base: TrainConfig, methods: Sequence[str]) -> None:
    """Refuses, before anything is loaded, what a run would, or what would be of no method's."""
    check_apart(base.prompt_init, directory_of_run(base))
    if base.method is not None:
        raise UsageError(f"{spelled('method')} is of a single run: set {spelled('methods')}.")
    declared = settings_of(TrainConfig)
    for name, own in _OF_METHODS.items():
        if getattr(base, name) != declared[name].default and not {*own} & {*methods}:
            raise UsageError(
                f"{spelled(name)} is for {' and '.join(own)}: name that in "
                f"{spelled('methods')}, or leave it out."
            )
    if base.learning_rate is not None and "prompt" not in methods:
        raise UsageError(
            f"{spelled('learning_rate')} is for prompt: others have theirs by {spelled('rates')}."
        )
    if base.halve_at is not None:
        raise UsageError(f"{spelled('halve_at')} would end some seeds early: leave it out.")
    trained = [method for method in methods if method in TRAINED]
    for method in trained or ["prompt"]:
        check_settings(run_config(config, base, method, base.learning_rate, base.seed))


def majority(setting: Setting) -> Row:
    """Always the training split's commonest answer."""
    words = setting.model.text_vocabulary("compare")

    def answers(split: str, limit: int | None) -> list[str]:
        examples = setting.task.split(split).stream(seed=None, epoch=0)
        return [target_text(example, words) for example in itertools.islice(examples, limit)]

    (answer, _), *_ = collections.Counter(answers("train", None)).most_common(1)
    targets = answers("test", setting.config.test_limit)
    score = setting.task.score(targets, [answer] * len(targets))[setting.task.best_metric]
    return Row("majority", [score], chosen=repr(answer))


def no_prompt(setting: Setting) -> Row:
    """The frozen model on the bare input."""
    return Row("no_prompt", [setting.score("test", setting.model)], switching="nothing")


def hand_written(setting: Setting) -> Row:
    """The best of some texts, by validation."""
    path, name = setting.config.text_prompts, setting.task.name
    if path is not None:
        texts: Sequence[str] = [x for x in Path(path).read_text("utf-8").splitlines() if x.strip()]
    else:
        texts = hand_written_prompts(name) if name in BUNDLED_TASKS else ()
    if not texts:
        raise UsageError(
            f"{spelled('methods')} hand_written: write prompts, one in each line, into a file, and "
            f"name it with {spelled('text_prompts')}."
        )
    best = max(texts, key=lambda text: setting.score("validation", setting.model, text=text))
    score = setting.score("test", setting.model, text=best)
    return Row("hand_written", [score], chosen=best, switching="nothing: text of the row")


def tuned(setting: Setting, method: str) -> Row:
    """A method from every seed, at the learning rate that is best with the first."""
    seeds = [setting.base.seed + i for i in range(setting.config.seeds)]
    rates = rates_of(setting.config, method)
    chosen, done = rates[0], Timed([], 0.0)
    if len(rates) > 1:
        tried = {}
        for rate in rates:
            with contextlib.suppress(NotFiniteError):  # too high: another may be right
                tried[rate] = runs(setting, method, rate, seeds[:1])
        if not tried:
            raise NotFiniteError(f"{method}: no learning rate of {rates} trains: try lower ones.")
        chosen = max(tried, key=lambda rate: setting.best_validation(tried[rate].results[0]))
        done = tried[chosen]
    others = runs(setting, method, chosen, seeds[len(done.results) :])
    results = [*done.results, *others.results]
    config = run_config(setting.config, setting.base, method, chosen, seeds[0])
    trained, memory = costs_of(config, setting.model)
    return Row(
        method,
        [setting.score("test", result.model, result.prompt) for result in results],
        trained,
        memory,
        seconds=(done.seconds + others.seconds) / len(seeds),
        stored=stored_bytes(Path(config.model_dir) / "best"),
        switching=SWITCHING[method],
        chosen=f"learning rate {chosen:g}" if len(rates) > 1 else "",
        curves=[
            [(scores["step"], scores[setting.task.best_metric]) for scores in result.history]
            for result in results
        ],
    )


class Timed(NamedTuple):
    """Results of runs, and the seconds that this call spent on them."""

    results: list[TrainResult]
    seconds: float


def runs(setting: Setting, method: str, rate: float | None, seeds: Sequence[int]) -> Timed:
    """A method from some seeds; what leaves the model as it is trains together."""
    common = setting.config, setting.base
    configs = [run_config(*common, method, rate, seed) for seed in seeds]
    started = time.perf_counter()
    if method != "model" and len(seeds) > 1:
        directory = str(Path(configs[0].model_dir).parent)
        own = {Path(one.model_dir).name: {"seed": one.seed} for one in configs}
        together = dataclasses.replace(configs[0], model_dir=directory)
        results = list(train_many(own, together).values())
    else:
        results = [train(one) for one in configs]
    return Timed(results, time.perf_counter() - started)


def run_config(
    config: CompareConfig, base: TrainConfig, method: str, rate: float | None, seed: int
) -> TrainConfig:
    """The settings of one run; what only other methods have is left out."""
    declared = settings_of(TrainConfig)
    steps = (config.method_steps or {}).get(method, base.train_steps)
    own = {name: declared[name].default for name, of in _OF_METHODS.items() if method not in of}
    if method not in OF_LENGTH:
        own["prompt_length"] = declared["prompt_length"].default
    part = "" if rate is None else f"rate{rate:g}"
    return dataclasses.replace(
        base,
        **own,
        method=method,
        learning_rate=rate,
        train_steps=steps,
        eval_period=max(base.eval_period * steps // base.train_steps, 1),
        checkpoint_period=max(base.checkpoint_period * steps // base.train_steps, 1),
        seed=seed,
        model_dir=str(Path(base.model_dir) / method / part / f"seed{seed}"),
    )


def rates_of(config: CompareConfig, method: str) -> list[float | None]:
    """Those to try; None for the method's own."""
    given = (config.rates or {}).get(method)
    if given is None:
        return [config.learning_rate if method == "prompt" else None]
    words = given.split(",") if isinstance(given, str) else given
    words = [words] if isinstance(words, int | float) else words
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UsageError(f"{spelled('rates')} {method}: {given!r} are no numbers.") from error


# Settings of some methods alone -> those methods.
_OF_METHODS: Mapping[str, Sequence[str]] = {
    "prompt_parameterization": ("prompt",),
    "parameterization_size": ("prompt",),
    "prompt_init": ("prompt",),
    "prompt_visibility": ("prompt",),
    "prompt_layout": ("prompt",),
    "shared_prompt": ("prompt",),
    "wayward_text": ("prompt", BOTH),
    "wayward_weight": ("prompt", BOTH),
    **{name: (method,) for name, method in OWN.items()},
}
# What it takes to answer the next request for another task.
SWITCHING = dict.fromkeys((*ADAPTERS, BOTH), "the adapter in the weights is exchanged") | {
    "prompt": "nothing: each row has its own",
    "model": "another model",
}
