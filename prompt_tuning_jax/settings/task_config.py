"""A task by name: bundled, from files, or registered with SeqIO."""

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_tuning_jax.bounds import SHARE
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS, bundled_task
from prompt_tuning_jax.data.files import fields_of_files, file_task
from prompt_tuning_jax.data.task import Task
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.common import (
    PREDICTIONS,
    FeatureLengthsConfig,
    FileFormConfig,
    FormConfig,
    ModelConfig,
)
from prompt_tuning_jax.settings.setting import PathLike, setting, settings, settings_of
from prompt_tuning_jax.vocabularies import Vocabulary

LENGTHS = {"inputs": 512, "targets": 64}
FORM = ("columns", "encoding", "delimiter")
FILES_ONLY = (
    *("input_template", "target_template", "metric", "positive", "validation_share"),
    *("task_field", "task_id"),
    *FORM,
    "missing",
)


@settings
class TaskConfig(FormConfig, FileFormConfig, FeatureLengthsConfig, ModelConfig):
    """Which frozen model, and which task."""

    task: Any = setting(
        default=None,
        help="a bundled task, a registered SeqIO task or mixture, or, in Python, a `Task`.",
        group="data",
        first=True,
        positional=True,
    )
    task_module: str | None = setting(
        default=None, help="the Python module that registers the SeqIO task.", group="data"
    )
    data_dir: PathLike | None = setting(
        default=None,
        help="""a directory of train, validation and test files (.jsonl, .tsv or .csv), instead of a
        task; of a SeqIO task, the directory with the data sets' release files, instead of TFDS.""",
        group="data",
        first=True,
        identity=True,
    )
    train_file: PathLike | None = setting(
        default=None,
        help="a .jsonl, .tsv or .csv file, instead of data_dir.",
        group="data",
        identity=True,
    )
    validation_file: PathLike | None = setting(
        default=None, help="the same, to evaluate on.", group="data"
    )
    test_file: PathLike | None = setting(
        default=None, help="the same, as the split `test`.", group="data"
    )
    target_template: str = setting(
        default="{label}",
        help="makes the target from a record's fields.",
        group="data",
        identity=True,
    )
    validation_share: float | None = setting(
        default=None,
        help="""the share of a train file to hold out as the split `validation`, such as 0.1, the
        same in every run, with its share of every label; None: there is a validation file.""",
        group="data",
        bounds=SHARE,
        identity=True,
    )
    task_field: str | None = setting(
        default=None,
        help="""a field of files' records that says which task each is of; task_id chooses one of
        them, and train with mix_tasks takes them all.""",
        group="data",
        identity=True,
    )
    task_id: str | None = setting(
        default=None,
        help="what task_field says in the records to take.",
        group="data",
        identity=True,
    )
    metric: str | Sequence[str] | None = setting(
        default=None,
        help="""the metric of a files task, "accuracy" if not given, or several, of which the first
        chooses the best step.""",
        group="evaluation",
        identity=True,
    )
    positive: str | None = setting(
        default=None,
        help="""the verbalizer that the metric "f1" looks for; None: the last one.""",
        group="evaluation",
        identity=True,
    )


def lengths_of(given: Mapping[str, int] | None) -> dict[str, int]:
    """The longest `inputs` and `targets` in tokens: those given, or the default."""
    lengths = dict(LENGTHS if given is None else given)
    if set(lengths) != set(LENGTHS) or not all(
        isinstance(n, int) and n > 0 for n in lengths.values()
    ):
        raise ValueError(
            f"{spelled('feature_lengths')} must give inputs and targets, 1 or more, such as "
            f"inputs=512 targets=16, got {lengths}."
        )
    return lengths


def load_task(
    config: TaskConfig, vocabulary: Vocabulary | None, fields: Sequence[str] = ()
) -> Task:
    """The task that `config` names.

    Args:
      vocabulary: the frozen model's, for SeqIO.
      fields: of files' records, to keep in the examples.

    Raises:
      ValueError: neither or both of a name and files are given, or no such task exists.
    """
    files = _names_files(config)
    if files == (config.task is not None):
        raise ValueError(
            f"Give either {spelled('task')}, or files: {spelled('data_dir')} (or "
            f"{spelled('train_file')}, {spelled('validation_file')}) with "
            f"{spelled('input_template')}."
        )
    if files:
        return _load_files(config, fields)
    if fields:
        raise ValueError(
            f"The field {fields[0]!r} is read from files' records: give {spelled('data_dir')} (or "
            f"{spelled('validation_file')}) with {spelled('input_template')} instead of "
            f"{spelled('task')}."
        )
    if isinstance(config.task, Task) or config.task in BUNDLED_TASKS:
        _refuse(config, (*FILES_ONLY, "verbalizers"))
        return config.task if isinstance(config.task, Task) else bundled_task(config.task)
    if config.task_module is None:
        raise ValueError(
            f"{config.task!r} is no bundled task ({', '.join(BUNDLED_TASKS)}). For a SeqIO task, "
            f"name the module that registers it with {spelled('task_module')}."
        )
    _refuse(config, FILES_ONLY)
    from prompt_tuning_jax.data.seqio_source import seqio_task

    return seqio_task(
        config.task,
        module=config.task_module,
        vocabulary=vocabulary,
        feature_lengths=config.feature_lengths,
        verbalizers=config.verbalizers,
        data_dir=config.data_dir,
    )


def _refuse(config: TaskConfig, names: Sequence[str]) -> None:
    """Refuses settings that the task itself decides, where they are not left at their defaults."""
    task = config.task.name if isinstance(config.task, Task) else config.task
    for name in names:
        if getattr(config, name) != settings_of(TaskConfig)[name].default:
            raise ValueError(
                f"{spelled(name)} is for a task of files; {task!r} has its own: leave it out."
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
    files: dict[str, Any] = {
        "data": config.data_dir,
        "train": config.train_file,
        "validation": config.validation_file,
        "test": config.test_file,
    }
    form = {name: getattr(config, name) for name in FORM}
    if config.input_template is None:
        raise ValueError(
            f"Files need {spelled('input_template')}, such as 'sentence: {{sentence}}', which "
            f"names their fields. These have {', '.join(fields_of_files(**files, **form))}."
        )
    field, value = config.task_field, config.task_id
    if (field is None) != (value is None):
        raise ValueError(
            f"{spelled('task_field')} and {spelled('task_id')} choose the records of one task "
            f"together: set both. (Only {spelled('mix_tasks', True)} needs no task_id: it trains "
            "on the tasks of all records.)"
        )
    only = None if field is None or value is None else (field, value)
    return file_task(
        **files,
        **form,
        input_template=config.input_template,
        target_template=config.target_template,
        verbalizers=config.verbalizers,
        metric=config.metric or "accuracy",
        positive=config.positive,
        validation_share=config.validation_share,
        fields=fields,
        only=only,
        missing=config.missing,
        name=config.task_id or "files",
    )


def choose_predictions(task: Task, predictions: str | None) -> str:
    """ "rank" or "generate" for this task."""
    if predictions is None:
        return "rank" if task.verbalizers else "generate"
    if predictions not in PREDICTIONS:
        raise ValueError(
            f"{spelled('predictions')} must be {' or '.join(PREDICTIONS)}, not {predictions!r}."
        )
    if predictions == "rank" and not task.verbalizers:
        raise ValueError(
            f"{spelled('predictions', 'rank')} needs the legal answers of {task.name!r}: set "
            f"{spelled('verbalizers')}, or use 'generate'."
        )
    return predictions
