"""What methods are chosen by and scored on, where a task lacks one of the two."""

import dataclasses

from prompt_tuning_jax.data.task import ExampleList, Task, epoch_order
from prompt_tuning_jax.training.checks import held_out_remedy

# Of train: a share, but at least and at most so many examples, and never more than half.
HELD_OUT = 0.1, 50, 1000


def with_test_split(task: Task) -> Task:
    """The task with a split to choose by and one to score.

    Where there is no test split, validation becomes it. Where that leaves no validation, some of
    train stands in for it.
    """
    splits = dict(task.splits)
    if "test" not in splits:
        if "validation" not in splits:
            remedy = held_out_remedy(task)
            raise ValueError(
                f"{task.name!r} has neither test nor validation to compare by.{remedy}"
            )
        splits["test"] = splits.pop("validation")
    if "validation" not in splits and "train" in splits:
        splits["train"], splits["validation"] = _some_held_out(task)
    return dataclasses.replace(task, splits=splits)


def _some_held_out(task: Task) -> tuple[ExampleList, ExampleList]:
    """What stays of train, and what of it is to choose by."""
    source = task.split("train")
    if len(getattr(source, "rates", ())) > 1:
        raise ValueError(
            f"{task.name!r} is a mixture with one split beside train, which is the test, and none "
            "of what it trains on at its rates can be held out to choose by: give its tasks "
            "another split, or compare by one of them."
        )
    in_order = list(source.stream(seed=None, epoch=0))  # with what a SeqIO task's metrics need
    examples = [in_order[i] for i in epoch_order(len(in_order), seed=0, epoch=0)]
    share, least, most = HELD_OUT
    held_out = min(max(int(len(examples) * share), least), most, len(examples) // 2)
    if not held_out:
        raise ValueError(
            f"{task.name!r} has one split beside train, which is the test, and its "
            f"{len(examples)} training examples are too few to choose by some of them: give "
            "another split, or more examples."
        )
    return ExampleList(examples[held_out:]), ExampleList(examples[:held_out])
