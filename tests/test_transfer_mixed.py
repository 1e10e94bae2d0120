"""Several tasks' examples in one batch, each row with its own task's prompt."""

import json

import jax
import numpy as np
import pytest
import tiny
from causal_models import MODELS
from common import slow

from prompt_tuning_jax import (
    ExampleList,
    TrainConfig,
    load_model,
    load_prompt,
    train,
    train_many,
)
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.settings.task_config import load_task
from prompt_tuning_jax.training.transfer.mixed_batches import MixedBatches, TaskExamples

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module", params=["t5", slow("causal")])
def frozen(request, model):
    return model if request.param == "t5" else load_model(MODELS["qwen3"])


# --- batches


def task_of(rows, name):
    train = ExampleList({"inputs": f"the {name} was good", "targets": "yes"} for _ in range(rows))
    return tiny.make_task(name=name, splits={"train": train})


def mixture(model, sizes, rates=None, rows=4):
    """Batches of tasks whose examples all name them."""
    tasks = [task_of(size, name) for name, size in sizes.items()]
    settings = {"batch_size": rows, "lengths": tiny.LENGTHS, "seed": 0}
    each = [TaskExamples(task.split("train"), model.vocabulary, **settings) for task in tasks]
    return MixedBatches(each, rates or list(sizes.values()), rows)


def counts_of(model, batches, names, number):
    """How many rows of each task come in some batches, whose text and number must agree."""
    counts = np.zeros(len(names), int)
    for _ in range(number):
        batch = next(batches)
        for row, i in zip(batch["encoder_input_tokens"], batch["prompt_ids"], strict=True):
            assert f"the {names[i]} was" in model.vocabulary.decode(row.tolist())
        counts += np.bincount(batch["prompt_ids"], minlength=len(names))
    return counts.tolist()


def test_rows_come_at_the_rates_and_know_their_task(model):
    sizes = {"soup": 3, "bread": 9}
    assert counts_of(model, mixture(model, sizes), list(sizes), 6) == [6, 18]
    assert counts_of(model, mixture(model, sizes, [1, 1]), list(sizes), 6) == [12, 12]
    assert counts_of(model, mixture(model, sizes, [0.5, 7.5]), list(sizes), 8) == [2, 30]


def test_there_may_be_more_tasks_than_rows(model):
    sizes = {name: 2 for name in tiny.FOODS[:6]}
    assert counts_of(model, mixture(model, sizes, rows=4), list(sizes), 3) == [2] * 6


def test_examples_of_other_lengths_wait_and_none_is_lost(model):
    """A batch has one length; what waits is in the state, and batches go on where they stood."""

    def make():
        each = [
            TaskExamples(
                tiny.make_task().split("train"),
                model.vocabulary,
                batch_size=4,
                lengths=tiny.LENGTHS,
                seed=seed,
                buckets={"inputs": (6, 8, 16)},
            )
            for seed in (0, 1)
        ]
        return MixedBatches(each, [2, 1], 4), each

    (batches, _), (again, _) = make(), make()
    whole = [next(batches) for _ in range(30)]
    assert len({batch["encoder_input_tokens"].shape for batch in whole}) > 1
    taken, state = 0, []
    while not any(one["pending"] for one in state):
        next(again)
        taken, state = taken + 1, again.get_state()
    later, members = make()
    for member, one in zip(members, state, strict=True):
        member.set_state(one)
    for batch in whole[taken:]:
        jax.tree.map(np.testing.assert_array_equal, next(later), batch)


# --- runs


def settings_of(model, place, **changes):
    settings = tiny.short_run(model, place, train_steps=4, eval_period=2, checkpoint_period=2)
    return settings | {"share": "product", "mix_tasks": True} | changes


RUNS = {"one": {}, "two": {"seed": 1, "task_rate": 20.0}}


def test_one_run_leaves_a_prompt_for_each_task(frozen, tmp_path):
    """And moves no weight; what is saved is what trained."""
    before = {name: np.array(x) for name, x in flatten(frozen.params).items()}
    results = train_many(RUNS, **settings_of(frozen, tmp_path))
    shared = load_prompt(tmp_path / "shared")
    last = {name: load_prompt(tmp_path / name / "last") for name in RUNS}
    for name, prompt in last.items():
        frozen.check(prompt)
        assert prompt.shape == shared.shape == (5, frozen.config.emb_dim)
        assert [scores["step"] for scores in results[name].history] == [2, 4]
        factors = prompt.values / shared.values  # of rank 1
        np.testing.assert_allclose(factors, factors[:, :1] * factors[:1] / factors[0, 0], rtol=1e-3)
    assert np.abs(last["one"].values - last["two"].values).max() > 0.01
    for name, x in flatten(frozen.params).items():
        np.testing.assert_array_equal(x, before[name])


def save_records(place):
    """Files whose records are of two tasks: of short sentences, and of long ones."""
    place.mkdir()
    for split, source in tiny.make_task().splits.items():
        rows = [row | {"kind": "long" if "very" in row["inputs"] else "short"} for row in source]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / f"{split}.jsonl").write_text(text)
    return {
        "task": None,
        "data_dir": str(place),
        "task_field": "kind",
        "input_template": "{inputs}",
        "target_template": "{targets}",
        "verbalizers": tiny.LABELS,
    }


def test_a_field_says_which_task_a_record_is_of(model, tmp_path):
    files = save_records(tmp_path / "files")
    results = train_many(None, **settings_of(model, tmp_path / "runs", **files))
    assert set(results) == {"short", "long"}
    for name, result in results.items():
        assert result.prompt.metadata["task"] == name
        config = TrainConfig(**files, task_id=name)
        for split, count in (("train", 30), ("validation", 10)):
            inputs = [row["inputs"] for row in load_task(config, None).split(split)]
            assert len(inputs) == count
            assert all(("very" in text) == (name == "long") for text in inputs)
    with pytest.raises(ValueError, match="choose the records of one task together: set both"):
        load_task(TrainConfig(**files), None)
    with pytest.raises(ValueError, match=r"whose kind is 'none'"):
        load_task(TrainConfig(**files, task_id="none"), None).split("train")


@pytest.mark.slow
def test_runs_that_go_on_are_the_runs_uninterrupted(frozen, tmp_path):
    settings = settings_of(frozen, tmp_path, dropout_rate=0.1, microbatches=2)
    train_many(RUNS, **settings | {"model_dir": str(tmp_path / "whole")})
    parts = settings | {"model_dir": str(tmp_path / "parts")}
    for steps in (2, 4):
        train_many(RUNS, **parts | {"train_steps": steps})
    for name in ("one/last", "two/last", "two/best", "shared"):
        values = (load_prompt(tmp_path / each / name).values for each in ("whole", "parts"))
        np.testing.assert_array_equal(*values)
    with pytest.raises(ValueError, match=r"task_rate was 20\.0, now 1\.0"):
        train_many({"one": {}, "two": {"seed": 1, "task_rate": 1.0}}, **parts)


@pytest.mark.parametrize(
    ("runs", "changes", "message"),
    [
        (RUNS, {"share": None}, "mix_tasks=True is for prompts with a part in common: set share"),
        (None, {}, "needs several tasks: give runs"),
        (None, {"mix_tasks": False}, "runs is empty"),
        (None, {"task_field": "kind"}, "task_field=kind is of files' records: leave it out"),
        (RUNS, {"pack": True}, "With mix_tasks=True leave out pack"),
        (RUNS, {"mix_tasks": False}, "task_rate is how often a task comes in a mixed batch"),
        (
            {"one": {}, "two": {"feature_lengths": {"inputs": 8, "targets": 8}}},
            {},
            "set feature_lengths for all, not for 'two'",
        ),
    ],
)
def test_what_is_refused(model, tmp_path, runs, changes, message):
    with pytest.raises(ValueError, match=message):
        train_many(runs, **settings_of(model, tmp_path, **changes))


def test_one_run_mixes_nothing(model, tmp_path):
    with pytest.raises(ValueError, match="set share"):
        train(**settings_of(model, tmp_path, share=None))
