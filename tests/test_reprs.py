"""What a notebook prints of the library's objects: a line each, not their numbers and texts."""

import jax
import numpy as np
import pytest

import prompt_tuning_jax as pt
from prompt_tuning_jax.bundled.tasks import bundled_task
from prompt_tuning_jax.devices.sharding import make_mesh
from prompt_tuning_jax.evaluation.scoring import EnsembleEvaluation

EVALUATION = pt.Evaluation({"accuracy": 98.5}, ["good"] * 2_000, ["bad"] * 2_000)


def bank(size):
    return pt.TunedBank({f"p{i}": pt.TunedPrompt(np.zeros((20, 8))) for i in range(size)})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pt.ExampleList([{"inputs": "a film", "targets": "good"}] * 9), "ExampleList(9 examples)"),
        (bundled_task("bundled_topic"), "Task('bundled_topic', 6 labels, splits train, "),
        (pt.Task("free", {}), "Task('free', free text"),
        (pt.TunedPrompt(np.ones((20, 8))), "TunedPrompt([20, 8], prefix, full visibility)"),
        (pt.TunedPrompt(np.ones((2, 8)), metadata={"task": "t"}), "visibility, task 't')"),
        (bank(2), "TunedBank(p0, p1)"),
        (bank(50), "TunedBank(p0, p1, p2 and 47 others)"),
        (
            bank(50).rows(["p1"] * 5_000),
            "PromptSet([50, 20, 8], full visibility, 5000 inputs, 1 at a time)",
        ),
        (bank(50).ensemble(), "PromptSet([50, 20, 8], full visibility, 50 at a time)"),
        (EVALUATION, "Evaluation(2000 examples, scores {'accuracy': 98.5})"),
        (
            EnsembleEvaluation({"p0": EVALUATION}, "p0", EVALUATION),
            "1 members, best 'p0', together",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_is_a_line(value, words):
    assert words in repr(value)
    assert is_short(value)


def test_a_model_and_a_result_are_a_line(model):
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert f", {size:,} weights, float32)" in repr(model)
    split = model.replace(mesh=make_mesh("data:2"))
    assert "float32, data:2" in repr(split)
    result = pt.TrainResult(pt.TunedPrompt(np.ones((20, 8))), [{"loss": 1.0}] * 500, split)
    assert "500 evaluations" in repr(result)
    assert is_short(model)
    assert is_short(result)


def is_short(value):
    return len(repr(value)) < 250 and "\n" not in repr(value)
