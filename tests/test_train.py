"""The laws of training: what moves, what stays, what is learnt, and what is refused."""

import dataclasses
import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from common import slow

from prompt_tuning_jax import (
    ExampleList,
    Task,
    evaluate,
    load_model,
    load_prompt,
    optim,
    save_prompt,
)
from prompt_tuning_jax import model as model_module
from prompt_tuning_jax import train as run
from prompt_tuning_jax.checkpoints.run_state import RunState
from prompt_tuning_jax.commands.train import main
from prompt_tuning_jax.data.metrics import get_metric
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.params import PROMPT_NAME, flatten, split_params, unflatten
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import trainers
from prompt_tuning_jax.training.identity import run_identity
from prompt_tuning_jax.training.monitor import NotFiniteError
from prompt_tuning_jax.training.private.secret import Secret
from prompt_tuning_jax.training.set_up import make_batches, open_model
from prompt_tuning_jax.training.train_step import make_train_step

SHORT = {"train_steps": 4, "eval_period": 2, "checkpoint_period": 2}
# At this rate the loss falls alike however a compiler orders its sums; at the paper's, it swings.
LEARNT = {"learning_rate": 0.05, "dropout_rate": 0.0}
pytestmark = pytest.mark.usefixtures("one_device")


def settings(model, model_dir, /, **changes):
    """A run of a prompt of five rows; all runs share their compiled step."""
    defaults = {
        "model": model,
        "task": tiny.make_task(),
        "model_dir": str(model_dir),
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "quiet": True,
        **SHORT,
    }
    return defaults | changes


@pytest.fixture
def start(model, tmp_path):
    """Trains with some settings changed, in a directory of its own."""

    def start(name: str = "run", **changes):
        return run(**settings(model, tmp_path / name, **changes))

    return start


def leaves(model):
    return {name: np.array(x) for name, x in flatten(model.params).items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=name)


# --- one run, looked at from all sides


@pytest.fixture(scope="module")
def before(model):
    return leaves(model)


@pytest.fixture(scope="module")
def learnt(model, before, tmp_path_factory):
    """(directory, result) of 150 steps of prompt tuning."""
    directory = tmp_path_factory.mktemp("learnt")
    only = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: only)
        options = {"train_steps": 150, "eval_period": 50, "checkpoint_period": 50}
        return directory, run(**settings(model, directory, **LEARNT, **options))


def test_a_task_is_learnt(learnt):
    _, result = learnt
    losses = [scores["loss"] for scores in result.history]
    assert [scores["step"] for scores in result.history] == [50, 100, 150]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1.5  # from 2.6
    assert max(scores["accuracy"] for scores in result.history) >= 90


def test_frozen_weights_are_bit_identical(learnt, before, model):
    _, result = learnt
    assert_same(leaves(model), before)
    assert_same(leaves(result.model), before)


def test_the_prompt_moves_and_is_float32(learnt, model):
    directory, _ = learnt
    last = load_prompt(directory / "last")
    assert last.shape == (5, model.config.emb_dim)
    assert last.values.dtype == np.float32
    labels = [model.vocabulary.encode(label)[0] for label in tiny.LABELS]
    began = np.asarray(model.embeddings)[labels]  # class labels start the first rows
    assert (np.abs(last.values[:2] - began) > 0.1).mean() > 0.8


def test_the_best_prompt_is_the_first_of_the_highest_score(learnt):
    directory, result = learnt
    highest = max(scores["accuracy"] for scores in result.history)
    first = next(s for s in result.history if s["accuracy"] == highest)
    assert result.prompt.metadata["step"] == first["step"]
    assert result.prompt.metadata["scores"]["accuracy"] == highest
    np.testing.assert_array_equal(result.prompt.values, load_prompt(directory / "best").values)


def test_a_prompt_file_says_what_it_is(learnt, model):
    metadata = learnt[1].prompt.metadata
    assert metadata["base_model_fingerprint"] == model.fingerprint
    assert metadata["vocabulary_hash"] == model.vocabulary.fingerprint
    assert metadata["task"] == "food"
    assert metadata["verbalizers"] == list(tiny.LABELS)


def test_the_prompt_is_kept_as_it_began_and_at_each_evaluation(learnt, model):
    directory, result = learnt
    kept = {int(path.name): load_prompt(path) for path in (directory / "prompts").iterdir()}
    assert sorted(kept) == [0, 50, 100, 150]
    labels = [model.vocabulary.encode(label)[0] for label in tiny.LABELS]
    np.testing.assert_array_equal(kept[0].values[:2], np.asarray(model.embeddings)[labels])
    assert (kept[0].metadata["step"], kept[0].metadata["scores"]) == (0, {})
    for scores in result.history:
        metadata = kept[scores["step"]].metadata
        assert metadata["scores"] | {"step": metadata["step"]} == scores
    best, last = kept[result.prompt.metadata["step"]], load_prompt(directory / "last")
    np.testing.assert_array_equal(best.values, result.prompt.values)
    np.testing.assert_array_equal(kept[150].values, last.values)


def test_a_result_unpacks_and_is_written(learnt):
    directory, result = learnt
    prompt, history = result
    assert prompt is result.prompt
    assert json.loads((directory / "history.json").read_text()) == history


def test_the_best_prompt_scores_the_same_outside_training(learnt, model_dir, tmp_path):
    directory, result = learnt
    files = tiny.save_files(tmp_path)
    scores = evaluate(
        model=str(model_dir),
        data_dir=str(files),
        input_template="{text}",
        verbalizers={0: "yes", 1: "no"},
        prompt=str(directory / "best"),
        feature_lengths=tiny.LENGTHS,
        batch_size=8,
    ).scores
    expected = result.prompt.metadata["scores"]
    assert scores == pytest.approx({name: expected[name] for name in scores}, rel=1e-6)


def test_the_state_holds_only_the_prompt_and_its_optimizer(learnt, model):
    directory, _ = learnt
    parts = split_params({"encoder": {"prompt": {"prompt": jnp.zeros((5, 16))}}}, RULES)
    averaged = optim.averaging(optim.make_optimizer(parts[0], RULES), 0.95)
    arrays = (parts[0], averaged.init(parts[0]))
    saved = json.loads((directory / "state" / "150" / "meta" / "metadata").read_text())
    state = RunState(directory, saved["identity"])
    restored, meta = state.restore(150, arrays)  # which fails on any array more or less
    state.close()
    last = load_prompt(directory / "last").values
    np.testing.assert_array_equal(restored[1].average[PROMPT_NAME], last)
    assert meta["history"][-1]["step"] == 150


RULES = optim.prompt_rules()


def test_started_again_a_finished_run_gives_its_result(learnt, model):
    directory, result = learnt
    options = {"train_steps": 150, "eval_period": 50, "checkpoint_period": 50}
    again = run(**settings(model, directory, **LEARNT, **options))
    np.testing.assert_array_equal(again.prompt.values, result.prompt.values)
    assert again.history == result.history


@pytest.mark.slow
def test_the_frozen_model_is_never_written(vocabulary, tmp_path):
    """A wide model, so that its weights would outweigh whatever else a state holds."""
    model = load_model(tiny.save_model(tmp_path / "wide", vocabulary, mlp_dim=8192))
    weights = sum(x.nbytes for x in jax.tree.leaves(model.params))
    run(**settings(model, tmp_path / "run", train_steps=1))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert weights > 3e6
    assert sum(path.stat().st_size for path in files) < 2e5


# --- the step


def test_the_step_has_the_models_loss_and_gradient(model):
    batch = {
        "encoder_input_tokens": np.array([[5, 6, 7, 1]] * 8, np.int32),
        "decoder_input_tokens": np.array([[0, 9]] * 8, np.int32),
        "decoder_target_tokens": np.array([[9, 1]] * 8, np.int32),
        "decoder_loss_weights": np.ones((8, 2), np.float32),
    }
    prompt = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    loss, gradient = jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)
    for normalization, divisor in (("sum", 1), ("mean", 16)):
        config = TrainConfig(dropout_rate=0.0, loss_normalization=normalization)
        params = model.prompted(prompt).params
        trainable, frozen = split_params(params, RULES)
        optimizer = optim.make_optimizer(trainable, RULES)
        step = make_train_step(config, model, optimizer)
        *_, metrics = step(trainable, optimizer.init(trainable), frozen, batch, jax.random.key(0))
        np.testing.assert_allclose(metrics["loss"], loss / 16, rtol=1e-5)
        norm = np.linalg.norm(gradient) / divisor
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)


# --- what trains is data


@pytest.mark.slow
def test_model_tuning_moves_everything(start, model, before, tmp_path):
    result = start(prompt_length=0, learning_rate=0.05, train_steps=20, eval_period=20)
    assert result.prompt is None
    assert not (tmp_path / "run" / "prompts").exists()
    after = leaves(load_model(tmp_path / "run" / "best"))
    assert all(np.any(after[name] != before[name]) for name in before)
    assert_same(leaves(result.model), after)
    assert_same(leaves(model), before)
    assert result.history[-1]["loss"] < 1.5  # from 2.6


@pytest.mark.slow
def test_prompt_and_model_tuning_together(start, model, before, tmp_path):
    rules = [(PROMPT_NAME, optim.paper_adafactor()), (".*", optim.adam(0.01))]
    result = start(trainable=rules)
    best = tmp_path / "run" / "best"
    after = leaves(load_model(best))
    assert all(np.any(after[name] != before[name]) for name in before)
    files = tiny.save_files(tmp_path / "files")
    scores = evaluate(
        model=str(best),
        prompt=str(best),
        data_dir=str(files),
        input_template="{text}",
        verbalizers={0: "yes", 1: "no"},
        feature_lengths=tiny.LENGTHS,
        batch_size=8,
    ).scores
    expected = result.prompt.metadata["scores"]
    assert scores == pytest.approx({name: expected[name] for name in scores}, rel=1e-5)


def test_only_what_a_rule_names_moves(start, before, tmp_path):
    start(prompt_length=0, trainable=[("decoder/logits_dense/.*", optim.adam(0.01))])
    after = leaves(load_model(tmp_path / "run" / "best"))
    moved = {name for name in before if np.any(after[name] != before[name])}
    assert moved == {"decoder/logits_dense/kernel"}


@pytest.mark.slow
def test_bfloat16_weights_keep_a_float32_prompt(start, model_dir):
    half = load_model(model_dir, dtype=jnp.bfloat16)
    result = start(model=half, model_dtype=jnp.bfloat16)
    values = result.prompt.values
    assert values.dtype == np.float32
    assert np.any(values != values.astype(jnp.bfloat16).astype(np.float32))
    assert {x.dtype for x in jax.tree.leaves(result.model.params)} == {jnp.dtype(jnp.bfloat16)}


# --- randomness, and its absence


@pytest.mark.slow
def test_a_run_is_its_seeds_and_dropout_matters(start):
    first, again = start("a").prompt.values, start("b").prompt.values
    np.testing.assert_array_equal(first, again)
    assert np.any(start("c", seed=1).prompt.values != first)
    assert np.any(start("d", dropout_rate=0.0).prompt.values != first)


@pytest.mark.slow
def test_more_steps_later_are_as_many_at_once(start):
    at_once = start("at once", train_steps=6)
    start("in two parts", train_steps=2)
    in_two = start("in two parts", train_steps=6)
    np.testing.assert_array_equal(in_two.prompt.values, at_once.prompt.values)
    assert in_two.history == at_once.history


@pytest.mark.slow
def test_command_line_and_python_are_one(start, model_dir, tmp_path):
    files = tiny.save_files(tmp_path / "files")
    result = start(
        task=None,
        data_dir=str(files),
        input_template="{text}",
        verbalizers={0: "yes", 1: "no"},
        model=str(model_dir),
    )
    main(
        [
            f"--gin.INITIAL_CHECKPOINT_PATH={model_dir}",
            f"--gin.DATA_DIR={files}",
            f"--gin.MODEL_DIR={tmp_path / 'command'}",
            "--gin.INPUT_TEMPLATE={text}",
            "--gin.VERBALIZERS={0: 'yes', 1: 'no'}",
            f"--gin.TASK_FEATURE_LENGTHS={tiny.LENGTHS}",
            "--gin.BATCH_SIZE=8",
            "--gin.PROMPT_LENGTH=5",
            "--gin.TRAIN_STEPS=4",
            "--gin.EVAL_PERIOD=2",
            "--gin.CHECKPOINT_PERIOD=2",
            "--gin.QUIET=True",
        ]
    )
    prompt = load_prompt(tmp_path / "command" / "best")
    np.testing.assert_array_equal(prompt.values, result.prompt.values)


@pytest.mark.slow
def test_the_mesh_changes_nothing_but_rounding(model, tmp_path, monkeypatch):
    def last(name, **changes):
        changes |= {"dropout_rate": 0.0, "train_steps": 3, "trainable": tiny.PLAIN_STEPS}
        run(**settings(model, tmp_path / name, **changes))
        return load_prompt(tmp_path / name / "last").values

    one = last("one")
    monkeypatch.undo()  # both devices
    assert jax.device_count() == 2
    for mesh in ("data:2", "model:2"):
        np.testing.assert_allclose(last(mesh, mesh=mesh), one, rtol=0, atol=1e-5)


# --- interruptions that need no second process


@pytest.fixture
def taken():
    """Makes a signal do what it does at first, also where the tests run with it ignored."""
    before = {}

    def take(number):
        is_ctrl_c = number == signal.SIGINT
        handler = signal.default_int_handler if is_ctrl_c else signal.SIG_DFL
        before[number] = signal.signal(number, handler)

    yield take
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (signal.SIGTERM, SystemExit),
        slow(signal.SIGHUP, SystemExit),
        slow(signal.SIGINT, KeyboardInterrupt),  # which a notebook, too, is to see
    ],
    ids=str,
)
def test_a_signal_during_an_evaluation_saves_that_step(model, tmp_path, taken, number, end):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    calls = []
    taken(number)

    def metric(targets, predictions):
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(number)
        return {"accuracy": 50.0}

    options = {"task": tiny.make_task(metrics=(metric,)), "checkpoint_period": 100}
    before = signal.getsignal(number)
    with pytest.raises(end) as stopped:
        run(**settings(model, tmp_path, **options))
    assert end is KeyboardInterrupt or stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert RunState(tmp_path, {}).latest_step() == 2
    result = run(**settings(model, tmp_path, **options))
    assert [scores["step"] for scores in result.history] == [2, 4]


def test_ctrl_c_in_the_last_step_is_told_to_the_caller_of_a_done_run(model, tmp_path, taken):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")
    calls = []
    taken(signal.SIGINT)

    def metric(targets, predictions):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return {"accuracy": 50.0}

    with pytest.raises(KeyboardInterrupt):
        run(**settings(model, tmp_path, task=tiny.make_task(metrics=(metric,))))
    assert (tmp_path / "last" / "prompt.safetensors").is_file()
    assert (tmp_path / "history.json").is_file()


def test_a_signal_that_is_ignored_stays_ignored(model, tmp_path):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread only")

    def metric(targets, predictions):
        signal.raise_signal(signal.SIGHUP)
        return {"accuracy": 50.0}

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        result = run(**settings(model, tmp_path, task=tiny.make_task(metrics=(metric,))))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [scores["step"] for scores in result.history] == [2, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "batch_size was 8, now 4"),
        ({"prompt_length": 6}, "prompt_length was 5, now 6"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"eval_limit": 4}, "eval_limit was None, now 4"),
        (
            {"task": tiny.make_task(splits={"train": ExampleList(tiny.examples()[:4])})},
            "the number of training examples was .*, now 4",
        ),
        ({"feature_lengths": {"inputs": 8, "targets": 4}}, "feature_lengths"),
        ({"task": tiny.make_task(name="other")}, "task was 'food', now 'other'"),
    ],
)
def test_another_runs_directory_is_refused(learnt, model, changes, words):
    with pytest.raises(ValueError, match=words):
        run(**settings(model, learnt[0], **LEARNT, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verbalizers": {"0": "no", "1": "yes"}}, "verbalizers was .*'0': 'yes'.*, now .*'no'"),
        slow({"target_template": "a {label}"}, "target_template was '{label}', now 'a {label}'"),
        slow({"model_dtype": "bfloat16"}, "model_dtype was 'float32', now 'bfloat16'"),
    ],
)
def test_a_run_does_not_go_on_with_other_labels_or_weights(model_dir, tmp_path, changes, words):
    files = {"task": None, "data_dir": str(tiny.save_files(tmp_path / "files"))}
    files |= {"input_template": "{text}", "verbalizers": {"0": "yes", "1": "no"}}
    options = settings(str(model_dir), tmp_path / "run", **files)
    run(**options)
    with pytest.raises(ValueError, match=words):
        run(**options | {"train_steps": 6} | changes)


def test_a_prompt_of_another_model_is_no_start_unless_asked_for(start, model, tmp_path):
    values = np.ones((5, model.config.emb_dim), np.float32)
    path = str(save_prompt(tmp_path / "other", values, fingerprint="f" * 64))
    with pytest.raises(ValueError, match=r"prompt_init .*tuned for another model"):
        start(prompt_init=path)
    start(prompt_init=path, allow_prompt_mismatch=True)
    np.testing.assert_array_equal(load_prompt(tmp_path / "run" / "prompts" / "0").values, values)


def test_any_number_beats_a_score_that_is_none(start):
    scores = iter([np.nan, 40.0, np.nan, 30.0])
    task = tiny.make_task(metrics=(lambda targets, predictions: {"accuracy": next(scores)},))
    result = start(task=task, train_steps=8)
    assert [scores["step"] for scores in result.history] == [2, 4, 6, 8]
    assert result.prompt.metadata["step"] == 4


@pytest.mark.slow
def test_the_frozen_model_is_hashed_once(start, model_dir, monkeypatch):
    model, hashed = load_model(model_dir), []
    real = model_module.fingerprint
    monkeypatch.setattr(model_module, "fingerprint", lambda p: hashed.append(1) or real(p))
    start(model=model)
    assert len(hashed) == 1


def test_the_weights_of_a_stacked_model_are_not_trained(start, model):
    with pytest.raises(ValueError, match="scan_layers"):
        start(model=model.scanned(), prompt_length=0)


# --- NaN


def poisoned(model):
    """The model with one weight that is not a number."""
    flat = flatten(model.params)
    name = "decoder/logits_dense/kernel"
    flat[name] = flat[name].at[0, 0].set(jnp.nan)
    return model.replace(params=unflatten(flat))


def test_nan_stops_the_run_and_keeps_the_last_good_prompt(start, model, tmp_path):
    with pytest.raises(NotFiniteError, match="step 1"):
        start(model=poisoned(model))
    assert np.isfinite(load_prompt(tmp_path / "run" / "last").values).all()


@pytest.mark.slow
def test_a_step_too_large_stops_the_run(start, tmp_path):
    with pytest.raises(NotFiniteError, match="learning_rate"):
        start(learning_rate=1e38)
    assert np.isfinite(load_prompt(tmp_path / "run" / "last").values).all()


# --- what is refused before anything trains


@pytest.fixture
def no_step(monkeypatch):
    def fail(*_):
        raise AssertionError("the model was used")

    monkeypatch.setattr(trainers, "make_train_step", fail)


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_dir": None}, "model_dir"),
        ({"train_steps": 0}, "train_steps"),
        ({"prompt_length": -1}, "prompt_length"),
        ({"prompt_layout": "infix"}, "prompt_layout.*infix"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"loss_normalization": "max"}, "loss_normalization"),
        ({"mesh": "rows:2"}, "mesh"),
        ({"mesh": "data:3"}, "mesh"),
        ({"feature_lengths": {"inputs": 8}}, "feature_lengths"),
        ({"data_dir": "somewhere"}, "Give either"),
        ({"task": None}, "task"),
        ({"task": tiny.make_task(splits={})}, "no split 'train'"),
        ({"task": tiny.make_task(splits={"train": ExampleList()})}, "holds no examples"),
        ({"eval_split": "dev"}, "no split 'dev'"),
        ({"predictions": "guess"}, "predictions"),
        ({"predictions": "guess", "task": tiny.make_task(metrics=())}, "predictions"),
        ({"eval_limit": 0}, "eval_limit"),
        ({"seed": -1}, "seed"),
        ({"feature_lengths": {"inputs": 8, "targets": 0}}, "feature_lengths"),
        ({"learning_rate": 0.1, "trainable": optim.prompt_rules()}, "learning_rate.*trainable"),
        ({"metric": "f1"}, "metric is for a task of files; 'food' has its own"),
        ({"prompt_init": "class_label"}, "prompt_init 'class_label' is none of uniform,"),
        ({"prompt_init": "no/such/prompt"}, "no/such/prompt"),
        ({"trainable": [("promt", optim.adam(0.1))]}, "trainable.*promt"),
        ({"trainable": [("decoder/.*", optim.adam(0.1))]}, "prompt_length=0"),
        ({"model": "no/such/model"}, "no/such/model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_setting_is_named(model, tmp_path, changes, words):
    options = settings(model, tmp_path / "run") | changes
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(**options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainable": [("encoder/prompt/prompt", optax.adam)]}, "with its parentheses"),
        ({"trainable": ["encoder/prompt/prompt"]}, "a rule is .regular expression, optimizer"),
        ({"model_dir": "gs://bucket/run"}, "mount the bucket"),
        ({"runs": {"a": {}}}, "call train_many"),
        ({"task": tiny.make_task(verbalizers=("\u597d", "\u574f"))}, "are the same tokens"),
        ({"task": tiny.make_task(best_metric="f1")}, "none of its scores"),
    ],
)
def test_mistakes_are_named_before_anything_is_lost(model, tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        run(**(settings(model, tmp_path) | changes))


def test_keywords_change_a_config(model, tmp_path):
    config = TrainConfig(**settings(model, tmp_path / "a"))
    assert [s["step"] for s in run(config, train_steps=2).history] == [2]


@pytest.mark.usefixtures("no_step")
def test_a_batch_that_does_not_divide_is_refused(start, monkeypatch):
    monkeypatch.undo()  # both devices
    with pytest.raises(ValueError, match=r"batch_size 7.*2 devices"):
        start(batch_size=7)


@pytest.mark.usefixtures("no_step")
def test_a_prompt_file_of_another_length_is_refused(start, learnt):
    with pytest.raises(ValueError, match="prompt_length to 5"):
        start(prompt_init=str(learnt[0] / "best"), prompt_length=6)


@pytest.mark.usefixtures("no_step")
def test_a_model_without_vocabulary_cannot_train_on_text(start, tmp_path):
    with pytest.raises(ValueError, match="has no vocabulary, so it cannot train on text"):
        start(model=load_model(tiny.save_model(tmp_path / "silent")))


# --- what else a run depends on


@pytest.mark.slow
def test_a_prompt_file_is_where_a_run_starts(start, learnt):
    result = start(prompt_init=str(learnt[0] / "last"), learning_rate=0.0, train_steps=1)
    expected = load_prompt(learnt[0] / "last").values
    np.testing.assert_allclose(result.prompt.values, expected, rtol=1e-4)  # weight decay only


def test_a_task_without_metrics_or_validation_trains(start):
    train_only = tiny.make_task(splits={"train": tiny.make_task().splits["train"]}, metrics=())
    result = start("no validation", task=train_only)
    assert result.history == []
    assert result.prompt.metadata["step"] == 4
    by_loss = start("loss", task=tiny.make_task(metrics=(), verbalizers=None))
    lowest = min(by_loss.history, key=lambda scores: scores["loss"])
    assert by_loss.prompt.metadata["step"] == lowest["step"]


def test_the_metric_that_chooses_may_be_another(start):
    task = tiny.make_task(metrics=(get_metric("f1", tiny.LABELS),), best_metric="f1")
    assert {"f1", "loss"} <= set(start(task=task).history[0])


def test_identity_is_json(model):
    config = dataclasses.replace(TrainConfig(), feature_lengths=tiny.LENGTHS)
    identity = run_identity(config, model, tiny.make_task(), {PROMPT_NAME: None}, {})
    assert json.loads(json.dumps(identity)) == identity


def test_progress_is_said(start, capsys):
    start()
    said = capsys.readouterr().out
    assert "step 2" in said
    assert "accuracy" in said
    assert "best: step" in said


def test_the_weights_of_a_model_from_elsewhere_are_shown(model_dir, capsys):
    mesh = sharding.make_mesh("data:1")
    open_model(TrainConfig(model=str(model_dir)), mesh)
    assert "matched, 0 missing" in capsys.readouterr().out
    for config in (TrainConfig(model=str(model_dir), quiet=True), TrainConfig()):
        open_model(config, mesh)
        assert not capsys.readouterr().out


def test_of_several_hosts_each_reads_its_own_rows(vocabulary, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", lambda counted: np.stack([counted, counted]))
    monkeypatch.setattr(sharding, "own_rows", lambda mesh, rows: range(rows // 2))
    same = ExampleList([{"inputs": "the soup was good", "targets": "yes"}] * 16)
    config = TrainConfig(batch_size=8)
    task = Task("same", {"train": same})
    for pack in (False, True):
        chosen = dataclasses.replace(config, pack=pack)
        mesh = sharding.make_mesh("data:1")
        batch = next(make_batches(chosen, task, vocabulary, tiny.LENGTHS, {}, mesh, Secret(chosen)))
        has_tokens = (batch["encoder_input_tokens"] > 0).any(axis=1)
        half = len(has_tokens) // 2
        assert has_tokens[:half].any()
        assert not has_tokens[half:].any()
