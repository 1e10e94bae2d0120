"""A registered SeqIO task or mixture as this library's `Task`.

Beside `tasks` and `t5x_plugin`, the one module that imports seqio and TensorFlow (`pip install
'prompt-tuning-jax[data]'`). SeqIO reads, preprocesses and tokenises; examples arrive as arrays of
ids, which `encoding.Encoder` trims. Evaluation applies the task's own postprocessor and metric
functions to predicted texts.
"""

import collections
import difflib
import importlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from prompt_tuning_jax.data.task import FEATURES, Example, Task
from prompt_tuning_jax.data.templates import Verbalizers, words_of
from prompt_tuning_jax.data.tensorflow_log import quiet_start
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.vocabularies import ByteVocabulary, Vocabulary

try:
    with quiet_start():
        import seqio
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the accelerator's memory belongs to JAX
except ImportError as error:
    raise ImportError(
        "SeqIO tasks need seqio and TensorFlow: pip install 'prompt-tuning-jax[data]', with Python "
        "3.11 to 3.13 (there is no TensorFlow for 3.14). Tasks from files need neither."
    ) from error


class SeqioTarget(str):
    """A target text that carries its SeqIO task and example, which postprocessors ask for."""

    task: seqio.Task
    example: Mapping[str, Any]

    def __new__(cls, text: str, task: seqio.Task, example: Mapping[str, Any]) -> "SeqioTarget":
        target = super().__new__(cls, text)
        target.task, target.example = task, example
        return target


class SeqioSource:
    """One split of a SeqIO task or mixture.

    With a seed, a task is shuffled as it declares, an epoch at a time, and a mixture is mixed at
    its rates without end. With `seed=None` the task, or the mixture's tasks one after another, come
    once in their own order, each example with its `target_text`.
    """

    def __init__(
        self,
        provider: seqio.Task | seqio.Mixture,
        split: str,
        feature_lengths: Mapping[str, int] | None,
    ):
        self._provider, self._split, self._lengths = provider, split, feature_lengths

    def __len__(self) -> int:
        """Examples of the data source, or, where it does not say, of one pass."""
        try:
            stated = self._provider.num_input_examples(self._split)
        except (NotImplementedError, TypeError):
            stated = None
        return sum(1 for _ in self.stream(seed=None, epoch=0)) if stated is None else int(stated)

    @property
    def rates(self) -> dict[str, float]:
        """The tasks that have this split, and the rate of each in a mixture."""
        tasks = [task for task in _tasks(self._provider) if self._split in task.splits]
        if not isinstance(self._provider, seqio.Mixture):
            return dict.fromkeys((task.name for task in tasks), 1.0)
        return {task.name: float(self._provider.get_rate(task)) for task in tasks}

    @property
    def fills_lengths(self) -> bool:
        """Whether the examples are made to the feature lengths, and not only cut where too long."""
        trim = seqio.preprocessors.append_eos_after_trim
        steps = (step for task in _tasks(self._provider) for step in task.preprocessors)
        asking = (step for step in steps if "sequence_length" in inspect.signature(step).parameters)
        return any(step is not trim for step in asking)

    def records(self) -> Iterator[Mapping[str, Any]]:
        """What the data source gives, before any preprocessing; of a mixture, task after task."""
        for task in _tasks(self._provider):
            if self._split in task.splits:
                dataset = task.source.get_dataset(self._split, shuffle=False)
                yield from dataset.as_numpy_iterator()

    def stream(self, *, seed: int | None, epoch: int, start: int = 0) -> Iterator[Example]:
        if seed is None:
            return itertools.islice(self._in_order(), start, None)
        return self._shuffled(seed, epoch, start)

    def _shuffled(self, seed: int, epoch: int, start: int) -> Iterator[Example]:
        endless = isinstance(self._provider, seqio.Mixture)
        dataset = self._provider.get_dataset(
            self._lengths,
            self._split,
            shuffle=True,
            seed=int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0] >> 1),
            num_epochs=None if endless else 1,
            try_in_mem_cache=endless,
            trim_output_features=False,
        )
        for example in dataset.skip(start).as_numpy_iterator():
            yield {feature: example[feature] for feature in FEATURES}

    def _in_order(self) -> Iterator[Example]:
        for task in _tasks(self._provider):
            if self._split not in task.splits:
                continue
            dataset = task.get_dataset(
                self._lengths,
                self._split,
                shuffle=False,
                seed=0,
                try_in_mem_cache=False,
                trim_output_features=False,
            )
            for example in dataset.as_numpy_iterator():
                target = SeqioTarget(_target_text(task, example), task, example)
                yield {f: example[f] for f in FEATURES} | {"target_text": target}


def _tasks(provider: seqio.Task | seqio.Mixture) -> Sequence[seqio.Task]:
    return provider.tasks if isinstance(provider, seqio.Mixture) else [provider]


def _target_text(task: seqio.Task, example: Mapping[str, Any]) -> str:
    text = example.get("targets_pretokenized")
    if isinstance(text, bytes):
        return text.decode("utf-8")
    return task.output_features["targets"].vocabulary.decode(example["targets"].tolist())


def seqio_metrics(targets: list[Any], predictions: list[str]) -> dict[str, float]:
    """The scores of the own tasks of some `SeqioTarget`s, and their `mean`.

    Of several tasks each score is called `task/score`, and the mean is over tasks.
    """
    by_task = collections.defaultdict(list)
    for target, prediction in zip(targets, predictions, strict=True):
        by_task[target.task.name].append((target, prediction))
    scores = {name: _task_scores(pairs[0][0].task, pairs) for name, pairs in by_task.items()}
    mean = float(np.mean([np.mean(list(each.values())) for each in scores.values() if each]))
    if len(scores) == 1:
        return next(iter(scores.values())) | {"mean": mean}
    named = {f"{task}/{k}": v for task, each in scores.items() for k, v in each.items()}
    return named | {"mean": mean}


def _task_scores(task: seqio.Task, pairs: list[tuple[SeqioTarget, str]]) -> dict[str, float]:
    targets = [task.postprocess_fn(str(t), example=t.example, is_target=True) for t, _ in pairs]
    predictions = [task.postprocess_fn(p, example=t.example, is_target=False) for t, p in pairs]
    found = {}
    for metric_fn in task.predict_metric_fns:
        for name, value in metric_fn(targets, predictions).items():
            value = value.value if isinstance(value, seqio.metrics.Scalar) else value
            if isinstance(value, int | float | np.number):
                found[name] = float(value)
    return found


def seqio_task(
    name: str,
    module: str | None = None,
    vocabulary: Vocabulary | None = None,
    feature_lengths: Mapping[str, int] | None = None,
    verbalizers: Verbalizers | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """The SeqIO task or mixture called `name`, registered by importing `module`.

    Metrics are its metric functions of predictions; their `mean` chooses the best checkpoint.
    Tasks may have a method `use(vocabulary=..., data_dir=...)`, to be told what the run has chosen.

    Args:
      vocabulary: the model's; SeqIO's features must use the same.
      feature_lengths: passed to SeqIO, for preprocessors that ask for them.
      verbalizers: the legal answers. If not given, those that the module declares in a mapping
        `VERBALIZERS` from task names to answers, if it does.
      data_dir: the directory with the data sets, for tasks that have `use`.

    Raises:
      ValueError: no such module, task, or feature, a task that is only read from a cache, another
        vocabulary than the model's, or more than one in a mixture.
    """
    provider = find_provider(name, module, vocabulary, data_dir)
    if cached := [task.name for task in _tasks(provider) if task.requires_caching]:
        raise ValueError(
            f"SeqIO task {cached[0]!r} is only read from a cache, which t5x.train alone does "
            "(USE_CACHED_TASKS): make its CacheDatasetPlaceholder not required, to read it here."
        )
    verbalizers = declared_verbalizers(name, module) if verbalizers is None else verbalizers
    has_metrics = any(task.predict_metric_fns for task in _tasks(provider))
    return Task(
        name=name,
        splits={str(s): SeqioSource(provider, str(s), feature_lengths) for s in provider.splits},
        verbalizers=None if verbalizers is None else words_of(verbalizers),
        metrics=(seqio_metrics,) if has_metrics else (),
        best_metric="mean",
    )


def find_provider(
    name: str,
    module: str | None = None,
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> seqio.Task | seqio.Mixture:
    """The task or mixture that importing `module` registers, told of the model and the data.

    Raises:
      ValueError: as `seqio_task`.
    """
    if module is not None:
        _import(module)
    provider = _provider(name, module)
    _tell(provider, vocabulary, data_dir)
    _check_features(provider, vocabulary)
    return provider


def declared_verbalizers(name: str, module: str | None) -> Sequence[str] | None:
    """The legal answers that a task's module declares in a mapping `VERBALIZERS`, if it does."""
    declared = {} if module is None else getattr(_import(module), "VERBALIZERS", {})
    return declared.get(name)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Cannot import the task module {module!r} ({error}): install it, or add its directory "
            "to PYTHONPATH."
        ) from error


def _provider(name: str, module: str | None) -> seqio.Task | seqio.Mixture:
    known = sorted(set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names()))
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else "is it the right module?"
        )
        raise ValueError(
            f"No SeqIO task or mixture {name!r} after importing {module!r}, which has registered "
            f"{len(known)}: {hint}"
        )
    return seqio.get_mixture_or_task(name)


def _tell(
    provider: seqio.Task | seqio.Mixture,
    vocabulary: Vocabulary | seqio.Vocabulary | None,
    data_dir: str | os.PathLike[str] | None,
) -> None:
    tellable = [task for task in _tasks(provider) if hasattr(task, "use")]
    for task in tellable:
        task.use(vocabulary=vocabulary, data_dir=None if data_dir is None else str(data_dir))
    if data_dir is not None and not tellable:
        raise ValueError(
            f"SeqIO task {provider.name!r} chooses its own data: leave {spelled('data_dir')} out "
            "(it has no "
            "method `use`, by which it would be told)."
        )


def _check_features(
    provider: seqio.Task | seqio.Mixture, vocabulary: Vocabulary | seqio.Vocabulary | None
) -> None:
    tasks = _tasks(provider)
    for task, name in itertools.product(tasks, FEATURES):
        features = task.output_features
        if name not in features:
            raise ValueError(
                f"SeqIO task {task.name!r} has the features {', '.join(features)}; prompt "
                "tuning needs 'inputs' and 'targets'."
            )
        if vocabulary is not None:
            _check_same(task.name, features[name].vocabulary, vocabulary)
        first = tasks[0].output_features[name].vocabulary
        if features[name].vocabulary != first:
            raise ValueError(
                f"Mixture {provider.name!r} has tasks with different vocabularies: {tasks[0].name} "
                f"{first}, {task.name} {features[name].vocabulary}. Give all of their features the "
                "model's spiece.model, with the same number of extra ids."
            )


def _check_same(task: str, theirs: seqio.Vocabulary, ours: Vocabulary | seqio.Vocabulary) -> None:
    """Every id must name the same piece; pass-through vocabularies have none to compare."""
    if isinstance(theirs, seqio.PassThroughVocabulary) or theirs == ours:
        return
    if isinstance(theirs, seqio.ByteVocabulary) and isinstance(ours, ByteVocabulary):
        return  # some of ByT5's ids are never made by one and the other
    message = (
        f"SeqIO task {task!r} does not use the model's vocabulary: {{}}. Give its features the "
        "model's spiece.model, with the same number of extra ids"
    )
    pieces, expected = _pieces(theirs), _pieces(ours)
    if pieces is None or expected is None:
        kinds = f"its vocabulary is a {type(theirs).__name__}, the model's a {type(ours).__name__}"
        raise ValueError(message.format(kinds))
    if len(pieces) != len(expected):
        raise ValueError(message.format(f"it has {len(pieces)} ids, the model {len(expected)}"))
    for token, (piece, other) in enumerate(zip(pieces, expected, strict=True)):
        if piece != other:
            raise ValueError(message.format(f"id {token} is {piece!r} and not {other!r}"))


def _pieces(vocabulary: Vocabulary | seqio.Vocabulary) -> list[str] | None:
    """The piece of each id, of a SentencePiece model; None for other vocabularies."""
    if isinstance(vocabulary, Vocabulary):
        pieces = [vocabulary.id_to_piece(token) for token in range(vocabulary.size)]
    elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
        pieces = vocabulary.tokenizer.id_to_piece(list(range(vocabulary.vocab_size)))
    else:
        return None
    return [piece.replace("▁<extra_id_", "<extra_id_") for piece in pieces]


def registered(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, one line) of every task and mixture that is registered with SeqIO.

    Args:
      modules: that register tasks when they are imported.
    """
    for module in modules:
        _import(module)
    for name in sorted(seqio.TaskRegistry.names()):
        metrics = map(_name, seqio.TaskRegistry.get(name).predict_metric_fns)
        yield name, f"SeqIO task, {', '.join(metrics) or 'no metrics'}"
    for name in sorted(seqio.MixtureRegistry.names()):
        count = len(seqio.MixtureRegistry.get(name).tasks)
        yield name, f"SeqIO mixture of {count} tasks"


def _name(metric: Callable[..., Any]) -> str:
    return getattr(metric, "func", metric).__name__  # of a functools.partial
