"""Tasks and sources: their order, their scores and their errors."""

import pytest

from prompt_tuning_jax.data.task import ExampleList, Task


def test_a_seed_and_an_epoch_fix_an_order():
    source = ExampleList({"inputs": f"{i}", "targets": "x"} for i in range(20))

    def order(seed, epoch, start=0):
        return [int(one["inputs"]) for one in source.stream(seed=seed, epoch=epoch, start=start)]

    assert order(None, 3) == list(range(20))
    assert sorted(order(1, 0)) == list(range(20))
    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert order(1, 1, start=5) == order(1, 1)[5:]


def test_a_split_must_be_there_and_hold_examples():
    task = Task("films", {"train": ExampleList()})
    with pytest.raises(ValueError, match="Split 'train' of task 'films' holds no examples"):
        task.split("train")
    with pytest.raises(ValueError, match="Task 'films' has no split 'test'; it has train"):
        task.split("test")


def test_scores_are_those_of_all_metrics():
    task = Task("films", {}, metrics=(lambda t, p: {"a": len(t)}, lambda t, p: {"b": len(p)}))
    assert task.score(["x"], ["x"]) == {"a": 1, "b": 1}
