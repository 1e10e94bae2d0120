"""Prompts tuned together: each comes out as from a run of its own."""

import json
from signal import SIGTERM

import jax
import numpy as np
import pytest
import tiny
from common import slow

from prompt_tuning_jax import ExampleList, load_prompt, optim, train_many
from prompt_tuning_jax import train as run_alone
from prompt_tuning_jax.commands.train import main
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.devices.interruption import StopSignal
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.rules import Pace
from prompt_tuning_jax.training.runs import run_configs
from prompt_tuning_jax.training.set_up import prepare
from prompt_tuning_jax.training.trainers import StackedTrainer, make_stacked_step, start_stack

pytestmark = pytest.mark.usefixtures("one_device")
BASE = {
    "feature_lengths": tiny.LENGTHS,
    "batch_size": 4,
    "prompt_length": 5,
    "train_steps": 6,
    "eval_period": 3,
    "checkpoint_period": 3,
    "log_period": 2,
    "dropout_rate": 0.0,
    "quiet": True,
}
# Everything that a run may have of its own.
RUNS = {
    "a": {"seed": 0},
    "b": {"seed": 1, "learning_rate": 0.002},
    "c": {"seed": 0, "prompt_init": "uniform", "train_steps": 4},
    "other": {"task": tiny.make_task(name="upside_down", verbalizers=("no", "yes"))},
}

# At the paper's rate of 0.3 six steps make a rounding of 1e-7 one of 1e-4; at this one, of 1e-6.
SLOWLY = {"learning_rate": 0.01}


@pytest.fixture
def together(model, tmp_path):
    def start(runs=RUNS, name="many", **changes):
        settings = {"model": model, "task": tiny.make_task(), "model_dir": str(tmp_path / name)}
        return train_many(runs, **(settings | BASE | changes))

    return start


@pytest.fixture
def alone(model, tmp_path):
    def start(name, changes, **more):
        settings = {"model": model, "task": tiny.make_task(), "model_dir": str(tmp_path / name)}
        return run_alone(**(settings | BASE | more | changes))

    return start


def assert_same_run(ours, theirs):
    np.testing.assert_allclose(ours.prompt.values, theirs.prompt.values, atol=2e-5)
    assert [scores["step"] for scores in ours.history] == [s["step"] for s in theirs.history]
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    assert ours.prompt.metadata["task"] == theirs.prompt.metadata["task"]


def test_each_run_ends_as_alone(together, alone, tmp_path):
    results = together(**SLOWLY)
    assert list(results) == list(RUNS)
    for name, changes in RUNS.items():
        assert_same_run(results[name], alone(f"{name}_alone", changes, **SLOWLY))
        for step in (0, 3):
            one = load_prompt(tmp_path / "many" / name / "prompts" / str(step))
            other = load_prompt(tmp_path / f"{name}_alone" / "prompts" / str(step))
            np.testing.assert_allclose(one.values, other.values, atol=2e-5)
    values = [result.prompt.values for result in results.values()]
    for i, one in enumerate(values):
        assert all(np.abs(one - other).max() > 1e-3 for other in values[:i])


@pytest.mark.slow
def test_with_dropout_too(together, alone):
    """Sentences of one length, so that both pad alike and draw the same."""
    rows = [row for row in tiny.make_task().splits["train"] if row["inputs"].startswith("the")]
    task = tiny.make_task(splits={"train": ExampleList(rows), "validation": ExampleList(rows)})
    changes = {"task": task, "dropout_rate": 0.2, "trainable": tiny.PLAIN_STEPS}
    results = together({"a": {"seed": 3}, "b": {"seed": 4}}, **changes)
    for name, seed in (("a", 3), ("b", 4)):
        assert_same_run(results[name], alone(f"{name}_alone", {"seed": seed}, **changes))
    without = together({"a": {"seed": 3}}, "dry", **changes | {"dropout_rate": 0.0})["a"]
    assert np.abs(without.prompt.values - results["a"].prompt.values).max() > 1e-3


@pytest.mark.slow
def test_stopped_and_resumed_is_uninterrupted(together, tmp_path, monkeypatch):
    whole = together(name="whole")

    def stop_at(step):
        from contextlib import contextmanager

        class Stop(StopSignal):
            def __call__(self, now):
                self.number = SIGTERM
                return now == step

        @contextmanager
        def signal():
            yield Stop()

        monkeypatch.setattr("prompt_tuning_jax.devices.interruption.stop_signal", signal)

    for step in (1, 4):  # before, and just as, one of the runs is done
        stop_at(step)
        with pytest.raises(SystemExit):
            together()
    stop_at(None)
    for name, result in together().items():
        np.testing.assert_array_equal(result.prompt.values, whole[name].prompt.values)
        assert result.history == whole[name].history


@pytest.mark.slow
def test_resumed_on_two_devices_too(together, monkeypatch):
    monkeypatch.undo()  # the fixture that hides the second device
    runs = {"a": {"seed": 0}, "b": {"seed": 1}}
    whole = together(runs, "whole", mesh="data:2")
    together(runs, train_steps=3, mesh="data:2")
    for name, result in together(runs, mesh="data:2").items():
        np.testing.assert_array_equal(result.prompt.values, whole[name].prompt.values)


@pytest.mark.slow
def test_a_run_that_breaks_leaves_the_others_alone(together, alone, capsys):
    runs = {"good": {"seed": 0}, "bad": {"seed": 0, "learning_rate": 1e38}}
    results = together(runs, **SLOWLY)
    assert_same_run(results["good"], alone("good_alone", {"seed": 0}, **SLOWLY))
    assert np.isfinite(results["bad"].prompt.values).all()
    assert "bad: a loss or gradient was not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_that_a_run_broke_is_seen_without_a_validation_split(together, tmp_path, capsys):
    task = tiny.make_task(splits={"train": tiny.make_task().splits["train"]})
    together({"bad": {"learning_rate": 1e38}}, task=task, log_period=50, checkpoint_period=50)
    assert "bad: a loss or gradient was not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_ended_before_the_others_does_not_skip_their_steps(together):
    runs = {"a": {"train_steps": 2}, "b": {"train_steps": 4}}
    together(runs)
    with pytest.raises(ValueError, match="'a' had ended at step 2, and the others stand at 4"):
        together({"a": {"train_steps": 6}, "b": {"train_steps": 6}})


@pytest.mark.slow
def test_a_run_ends_when_its_patience_does(together, alone):
    hopeless = {"learning_rate": 1e-12, "patience": 1, "train_steps": 30}
    results = together({"busy": {"train_steps": 12}, "hopeless": hopeless})
    assert [scores["step"] for scores in results["busy"].history] == [3, 6, 9, 12]
    assert [scores["step"] for scores in results["hopeless"].history] == [3, 6]
    single = alone("hopeless_alone", hopeless)
    assert [scores["step"] for scores in single.history] == [3, 6]


def test_the_frozen_weights_are_there_once(model, tmp_path):
    """The compiled step takes one copy of them, makes none, and gives them no gradient."""
    config = TrainConfig(model=model, task=tiny.make_task(), model_dir=str(tmp_path), **BASE)
    configs = run_configs(config, {str(i): {"seed": i} for i in range(8)})
    runs, starts, _, frozen = prepare(
        configs, model, sharding.make_mesh("data:1"), StackedTrainer.check, tmp_path
    )
    stack = start_stack(config, starts)
    batch = {name: np.stack([x] * 8) for name, x in next(iter(runs[0].batches)).items()}
    ones = np.ones(8, np.float32)
    keys, paces = jax.random.split(jax.random.key(0), 8), Pace(ones, ones)
    step = make_stacked_step(config, model)
    lowered = step.lower(stack, frozen, batch, keys, paces, 0)
    memory = lowered.compile().memory_analysis()
    weights = sum(x.nbytes for x in frozen.values())
    prompts = sum(x.nbytes for x in jax.tree.leaves(stack))
    assert memory.argument_size_in_bytes < weights + prompts + 1e5
    assert memory.output_size_in_bytes < prompts + 1e4


@pytest.mark.slow
def test_from_the_command_line(model_dir, tmp_path):
    tiny.save_files(tmp_path / "data")
    main(
        [
            f"--gin.INITIAL_CHECKPOINT_PATH={model_dir}",
            f"--gin.DATA_DIR={tmp_path / 'data'}",
            "--gin.INPUT_TEMPLATE={text}",
            "--gin.VERBALIZERS={'0': 'yes', '1': 'no'}",
            f"--gin.MODEL_DIR={tmp_path / 'run'}",
            f"--gin.TASK_FEATURE_LENGTHS={tiny.LENGTHS}",
            "--gin.RUNS={'x': {'RANDOM_SEED': 1}, 'y': {'LEARNING_RATE': 0.1, 'seed': 2}}",
            *(
                f"--gin.{name}={value}"
                for name, value in (
                    ("BATCH_SIZE", 4),
                    ("PROMPT_LENGTH", 5),
                    ("TRAIN_STEPS", 2),
                    ("EVAL_PERIOD", 2),
                    ("QUIET", True),
                )
            ),
        ]
    )
    for name in ("x", "y"):
        directory = tmp_path / "run" / name
        assert load_prompt(directory / "best").metadata["step"] == 2
        assert len(json.loads((directory / "history.json").read_text())) == 1
        assert list((directory / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("runs", "changes", "words"),
    [
        ({}, {}, "runs is empty"),
        ({"a": {"sed": 1}}, {}, "'a' sets sed.*did you mean seed"),
        ({"a": {"batch_size": 8}}, {}, "batch_size, which all runs have in common"),
        ({"../a": {}}, {}, "cannot be the name"),
        ({"state": {}}, {}, "cannot be the name"),
        ({"run.lock": {}}, {}, "cannot be the name"),
        ({"index": {}}, {}, "cannot be the name"),
        ({"a": {"train_steps": 0}}, {}, "train_steps must be at least 1"),
        ({"a": {}}, {"trainable": [(".*", optim.paper_adafactor(0.1))]}, "only 'encoder/prompt"),
        ({"a": {"patience": 0}}, {}, "patience must be"),
        ({1: {}}, {}, "runs: 1 cannot be the name"),
        ({"a": ["seed"]}, {}, "'a' needs settings"),
        ({"a": {"RANDOM_SEED": "1"}}, {}, "'a': RANDOM_SEED must be a whole number, not '1'"),
        ({"a": {"seed": 1, "RANDOM_SEED": 2}}, {}, "sets a setting twice"),
        (
            {"a": {"learning_rate": 0.1}},
            {"trainable": optim.prompt_rules()},
            "learning_rate is the default optimizer's",
        ),
    ],
)
def test_mistakes_are_named(together, runs, changes, words):
    with pytest.raises(ValueError, match=words):
        together(runs, **changes)


@pytest.mark.slow
def test_other_runs_do_not_continue_it(together):
    together({"a": {"seed": 0}}, train_steps=3)
    with pytest.raises(ValueError, match=r"a: seed was 0, now 1"):
        together({"a": {"seed": 1}})


def test_a_run_that_was_left_out_is_named(together):
    together({"a": {"seed": 0}, "b": {"seed": 1}}, train_steps=3)
    with pytest.raises(ValueError, match=r"runs was \['a', 'b'\], now \['a'\]"):
        together({"a": {"seed": 0}})


@pytest.mark.slow
def test_the_order_of_runs_does_not_matter(together):
    runs = {"b": {"seed": 0}, "a": {"seed": 1}}
    first = together(runs, train_steps=3)
    again = together(dict(sorted(runs.items())), train_steps=6)
    whole = together(runs, name="whole", train_steps=6)
    assert not np.array_equal(first["a"].prompt.values, first["b"].prompt.values)
    for name in runs:
        np.testing.assert_array_equal(again[name].prompt.values, whole[name].prompt.values)


@pytest.mark.parametrize("several", [slow(False), True])
def test_nothing_goes_to_the_device_unasked_in_a_step(together, alone, monkeypatch, several):
    put = sharding.put

    def forgetful(tree, places):
        is_batch = "encoder_input_tokens" in tree
        return tree if is_batch else put(tree, places)

    monkeypatch.setattr(sharding, "put", forgetful)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        together({"a": {}}) if several else alone("one", {})
