"""A task by name: bundled, from files, or registered with SeqIO."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.data.files import file_task
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.model import FrozenModel

LENGTHS = {"inputs": 512, "targets": 64}
FILES_ONLY = ("input_template", "target_template", "metric", "positive", "columns")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Which frozen model, and which task. Each field is a gin macro in capitals.

    Attributes:
      model: (INITIAL_CHECKPOINT_PATH) "bundled", a Hugging Face T5 directory, a T5X checkpoint, or
        a hub name.
      vocabulary: the model's spiece.model, where its directory does not hold one.
      task: (MIXTURE_OR_TASK_NAME) a bundled task, a registered SeqIO task or mixture, or a `Task`.
      task_module: (MIXTURE_OR_TASK_MODULE) the Python module that registers the SeqIO task.
      feature_lengths: (TASK_FEATURE_LENGTHS) longest `inputs` and `targets` in tokens, EOS
        included; the prompt comes on top.
      train_file, validation_file, test_file: .jsonl, .tsv or .csv files, instead of `task`.
      data_dir: a directory that holds train, validation and test files, instead of naming them; of
        a SeqIO task, the directory with the data sets' release files, instead of TFDS.
      input_template, target_template: such as "sentence: {sentence}" and "{label}".
      verbalizers: raw label -> its word, such as {"0": "negative", "1": "positive"}, or the list of
        legal answers.
      metric: the metric by which a files task is scored, "accuracy" if not given, or several, of
        which the first chooses the best step.
      positive: the verbalizer that the metric "f1" looks for; None: the last one.
      columns: names of the columns of files without a header.
    """

    model: Any = "bundled"
    vocabulary: str | None = None
    task: Any = None
    task_module: str | None = None
    feature_lengths: Mapping[str, int] | None = None
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    data_dir: str | None = None
    input_template: str | None = None
    target_template: str = "{label}"
    verbalizers: Mapping[str, str] | Sequence[str] | None = None
    metric: str | Sequence[str] | None = None
    positive: str | None = None
    columns: Sequence[str] | None = None


def lengths_of(given: Mapping[str, int] | None) -> dict[str, int]:
    """The longest `inputs` and `targets` in tokens: those given, or the default."""
    lengths = dict(LENGTHS if given is None else given)
    if set(lengths) != set(LENGTHS) or not all(
        isinstance(n, int) and n > 0 for n in lengths.values()
    ):
        raise ValueError(
            "TASK_FEATURE_LENGTHS must give 'inputs' and 'targets', such as "
            f"{{'inputs': 512, 'targets': 16}}, got {lengths}."
        )
    return lengths


def load_task(config: TaskConfig, model: FrozenModel, fields: Sequence[str] = ()) -> Task:
    """The task that `config` names.

    Args:
      fields: of files' records, to keep in the examples.

    Raises:
      ValueError: neither or both of a name and files are given, or no such task exists.
    """
    files = _names_files(config)
    if files == (config.task is not None):
        raise ValueError(
            "Give either MIXTURE_OR_TASK_NAME, or files: DATA_DIR (or TRAIN_FILE, VALIDATION_FILE) "
            "with INPUT_TEMPLATE."
        )
    if files:
        return _load_files(config, fields)
    if fields:
        raise ValueError(
            f"The field {fields[0]!r} is read from files' records: give DATA_DIR (or "
            "VALIDATION_FILE) with INPUT_TEMPLATE instead of MIXTURE_OR_TASK_NAME."
        )
    if isinstance(config.task, Task) or config.task in BUNDLED_TASKS:
        _refuse(config, (*FILES_ONLY, "verbalizers"))
        return config.task if isinstance(config.task, Task) else bundled_task(config.task)
    if config.task_module is None:
        raise ValueError(
            f"{config.task!r} is no bundled task ({', '.join(BUNDLED_TASKS)}). For a SeqIO task, "
            "name the module that registers it: MIXTURE_OR_TASK_MODULE."
        )
    _refuse(config, FILES_ONLY)
    from prompt_tuning_jax.data.seqio_source import seqio_task

    return seqio_task(
        config.task,
        module=config.task_module,
        vocabulary=model.vocabulary,
        feature_lengths=config.feature_lengths,
        verbalizers=config.verbalizers,
        data_dir=config.data_dir,
    )


def _refuse(config: TaskConfig, names: Sequence[str]) -> None:
    """Refuses settings that the task itself decides, where they are not left at their defaults."""
    task = config.task.name if isinstance(config.task, Task) else config.task
    for name in names:
        if getattr(config, name) != getattr(TaskConfig, name):
            raise ValueError(
                f"{name.upper()} is for a task of files; {task!r} has its own: leave it out."
            )


def names_a_task(config: TaskConfig) -> bool:
    """Whether `config` says what the task is, by name or by files."""
    return config.task is not None or _names_files(config)


def _names_files(config: TaskConfig) -> bool:
    files = (config.train_file, config.validation_file, config.test_file)
    return any(files) or (config.data_dir is not None and not _is_seqio(config))


def _is_seqio(config: TaskConfig) -> bool:
    named = config.task is None or isinstance(config.task, str)
    return named and config.task not in BUNDLED_TASKS and config.task_module is not None


def _load_files(config: TaskConfig, fields: Sequence[str]) -> Task:
    if config.input_template is None:
        raise ValueError(
            "Files need INPUT_TEMPLATE, such as \"'sentence: {sentence}'\", naming their fields."
        )
    return file_task(
        config.data_dir,
        train=config.train_file,
        validation=config.validation_file,
        test=config.test_file,
        input_template=config.input_template,
        target_template=config.target_template,
        verbalizers=config.verbalizers,
        metric=config.metric or "accuracy",
        positive=config.positive,
        columns=config.columns,
        fields=fields,
    )
