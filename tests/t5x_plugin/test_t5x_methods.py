"""Other methods than a prompt, each started with `t5x.train`: what moves, is written, is used."""

import contextlib
import json
import shutil

import gin
import numpy as np
import own_trainer
import pytest
import t5x_runs
from common import NEEDS_T5X, assert_same, slow

from prompt_tuning_jax import FrozenModel, load_prompt, save_prompt
from prompt_tuning_jax.bundled.tasks import bundled_examples
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.methods import shared_parts
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.params import PROMPT_FOLDER, unflatten
from prompt_tuning_jax.params import PROMPT_NAME as PROMPT
from prompt_tuning_jax.vocabularies import load_vocabulary

pytestmark = pytest.mark.t5x
tf = pytest.importorskip("tensorflow", reason=NEEDS_T5X)
METHODS = f"{t5x_runs.GIN}/methods"
PREDICT = (f"{t5x_runs.GIN}/models/bundled.gin", f"{t5x_runs.GIN}/runs/infer.gin")
LENGTHS = {"inputs": 24, "targets": 4}


def train(model_dir, base, method, **bindings):
    files = (f"{METHODS}/{method}.gin", *t5x_runs.TRAIN)  # in any order
    t5x_runs.train(model_dir, base, files, **bindings)
    return model_dir


def moved(base, model_dir):
    """The leaves that the base checkpoint has not, at the first and the last step."""
    before = t5x_runs.weights(base)
    first, last = (t5x_runs.weights(model_dir / f"checkpoint_{step}") for step in (3, 15))
    assert first.keys() == last.keys()
    assert before.keys() < last.keys()
    for name, values in before.items():
        assert last[name].dtype == values.dtype
        assert last[name].tobytes() == values.tobytes(), name
    new = last.keys() - before.keys()
    return {name: first[name] for name in new}, {name: last[name] for name in new}


ADAPTERS = [pytest.param("ia3", "ia3", id="ia3"), slow("per_layer_prompts", "prefix", id="prefix")]


@pytest.mark.parametrize(("file", "name"), ADAPTERS)
def test_an_adapter_trains_within_frozen_weights(base, tmp_path, file, name):
    run = train(tmp_path / "run", base, file)
    first, last = moved(base, run)
    assert {leaf.rpartition("/")[2] for leaf in last} == set(choice.METHODS[name].TRAINABLE)
    assert all(np.abs(last[leaf] - first[leaf]).max() > 1e-3 for leaf in last)

    adapter = load_adapter(run / "adapters" / "15", t5x_runs.CONFIG)
    assert adapter.method == name
    assert adapter.metadata["task"] == "bundled_sentiment"
    for leaf, values in last.items():
        np.testing.assert_array_equal(adapter.leaves[leaf], values)
    model = FrozenModel(t5x_runs.CONFIG, unflatten(t5x_runs.weights(base)))
    assert adapter.metadata["base_model_fingerprint"] == model.fingerprint

    told = {"MODE": "score", "TASK_FEATURE_LENGTHS": LENGTHS}
    method = f"{METHODS}/{file}.gin"
    whole = str(run / "checkpoint_15")
    scores = t5x_runs.infer(tmp_path / "whole", base, method, CHECKPOINT_PATH=whole, **told)
    small = str(run / "adapters" / "15")
    np.testing.assert_array_equal(
        scores, t5x_runs.infer(tmp_path / "small", base, method, ADAPTER_FILE=small, **told)
    )
    start = str(run / "checkpoint_3")
    other = t5x_runs.infer(tmp_path / "start", base, method, CHECKPOINT_PATH=start, **told)
    assert np.abs(np.subtract(scores, other)).max() > 1e-4

    prompt = str(save_prompt(tmp_path / "prompt", np.ones((5, 16), np.float32)))
    for files, given, said in (
        ((method,), {}, "holds no.* ADAPTER_FILE"),
        ((method,), {"PROMPT_FILE": prompt}, "PROMPT_FILE .* is not for this run's method"),
        ((), {"PROMPT_FILE": prompt, "ADAPTER_FILE": small}, "ADAPTER_FILE .* is not for this run"),
        ((), {"PROMPT_FILE": prompt, "CHECKPOINT_PATH": whole}, "has an adapter .* method has not"),
    ):
        with pytest.raises(ValueError, match=said):
            t5x_runs.infer(tmp_path / "refused", base, *files, **given)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ia3", "multi_task"])
def test_a_stopped_run_ends_as_if_it_had_not_been(base, tmp_path, method):
    told = {"PROMPT_INIT": "uniform"}
    if method == "multi_task":
        told["MIXTURE_OR_TASK_NAME"] = TASKS
    run = train(tmp_path / "run", base, method, **told)
    again = shutil.copytree(run, tmp_path / "again")
    for step in (11, 15):
        shutil.rmtree(again / f"checkpoint_{step}")
    train(again, base, method, **told)
    ours, theirs = (t5x_runs.weights(directory / "checkpoint_15") for directory in (again, run))
    assert {k: x.tobytes() for k, x in ours.items()} == {k: x.tobytes() for k, x in theirs.items()}


# --- prompts of several tasks


TASKS = ["bundled_sentiment", "bundled_season"]
SHARES = [pytest.param("add", id="add"), slow("concatenate"), slow("product")]


@pytest.mark.parametrize("share", SHARES)
def test_several_tasks_share_a_part_of_their_prompts(base, tmp_path, share):
    told = {
        "MIXTURE_OR_TASK_NAME": TASKS,
        "PROMPT_INIT": "sampled_vocabulary",
        "PROMPT_LENGTH": 4,
        "SHARE": share,
    }
    run = train(tmp_path / "run", base, "multi_task", **told)
    first, last = moved(base, run)
    assert all(np.abs(last[leaf] - first[leaf]).max() > 0.1 for leaf in last)
    for leaves, step in ((first, 3), (last, 15)):
        parts = {name.rpartition("/")[2]: x for name, x in leaves.items()}
        prompts = shared_parts.fold(share, parts)
        for i, task in enumerate(TASKS):
            written = load_prompt(run / "prompts" / str(step) / f"task_{i}")
            np.testing.assert_array_equal(written.values, prompts[i])
            assert written.metadata["task"] == task
        assert np.array_equal(prompts[0], prompts[1]) == (step == 3)  # they begin as one

    # A task's prompt file says what the whole says of that task's examples.
    whole = {"CHECKPOINT_PATH": str(run / "checkpoint_15"), "MIXTURE_OR_TASK_NAME": TASKS}
    lengths = {"inputs": LENGTHS["inputs"] + 1, "targets": 4}  # with the token that says the task
    scores = scores_by_task(
        tmp_path / "whole", base, "multi_task", **whole, SHARE=share, TASK_FEATURE_LENGTHS=lengths
    )
    for i, task in enumerate(TASKS):
        one = {"MIXTURE_OR_TASK_NAME": task, "TASK_FEATURE_LENGTHS": LENGTHS, "MODE": "score"}
        prompt = str(run / "prompts" / "15" / f"task_{i}")
        expected = t5x_runs.infer(tmp_path / task, base, **one, PROMPT_FILE=prompt)
        assert_same(np.array(scores[f"{task}_as_task_{i}"]), np.array(expected))


def scores_by_task(output, base, method, **bindings):
    """The scores of the validation splits of a mixture's tasks."""
    files = (f"{METHODS}/{method}.gin", *PREDICT)
    paths = {"INFER_OUTPUT_DIR": str(output), "INITIAL_CHECKPOINT_PATH": str(base)}
    t5x_runs.run("infer", files, paths | {"MODE": "score"} | bindings)
    found = {}
    for file in output.glob("*.jsonl-00000-of-00001"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        found[file.name.partition("-")[0]] = [line["score"] for line in lines]
    return found


def test_an_example_without_the_sentinel_of_a_task_is_refused(base):
    with model_of(base, "multi_task", NUM_TASKS=2) as model:
        converter = model.FEATURE_CONVERTER_CLS(pack=False)
    first = model.input_vocabulary.vocab_size - 1
    for token, is_known in ((first, True), (first - 1, True), (first - 2, False), (7, False)):
        example = {"inputs": np.array([[token, 7, 1]]), "targets": np.array([[8, 1]])}
        examples = tf.data.Dataset.from_tensor_slices(
            {name: x.astype(np.int32) for name, x in example.items()}
        )
        converted = converter(examples, LENGTHS).as_numpy_iterator()
        if is_known:
            assert next(converted)["encoder_input_tokens"].tolist()[:3] == [token, 7, 1]
        else:
            with pytest.raises(tf.errors.InvalidArgumentError, match="the sentinel of a task"):
                next(converted)


def test_several_tasks_must_be_named(base):
    refuse(base, "multi_task", "is not several tasks")
    refuse(base, "multi_task", "SHARE is 'sum'", NUM_TASKS=2, SHARE="sum")


# --- losses


@contextlib.contextmanager
def model_of(base, method=None, **bindings):
    """The model that `t5x.train` is given."""
    files = t5x_runs.TRAIN if method is None else (f"{METHODS}/{method}.gin", *t5x_runs.TRAIN)
    paths = {"MODEL_DIR": "runs/x", "INITIAL_CHECKPOINT_PATH": str(base)}
    settings = t5x_runs.TASK | t5x_runs.SHAPE | t5x_runs.SHORT | paths | bindings
    t5x_runs.parse("train", files, settings)
    try:
        yield gin.get_configurable("choice.changed")()
    finally:
        gin.clear_config()


def refuse(base, method, match, **bindings):
    with pytest.raises(ValueError, match=match), model_of(base, method, **bindings):
        pass


@pytest.fixture(scope="module")
def batch():
    return next(own_trainer.batches(t5x_runs.TASK["BATCH_SIZE"]))


@pytest.fixture(scope="module")
def weights(base):
    """The base checkpoint's, and a prompt."""
    prompt = np.random.default_rng(1).normal(0, 3, (5, t5x_runs.CONFIG.emb_dim))
    return t5x_runs.weights(base) | {PROMPT: prompt.astype(np.float32)}


TEXT = "Is this review positive?"


def test_the_loss_of_a_wayward_prompt_is_that_of_numpy(base, weights, batch):
    rows = text_rows(weights, len(weights[PROMPT]))
    params = unflatten(weights | {f"{PROMPT_FOLDER}wayward": rows})
    distance = np.mean(np.sum((weights[PROMPT] - rows) ** 2, axis=1))
    with model_of(base) as plain:
        expected = plain.loss_fn(unflatten(weights), batch, None)[0] + 3.0 * distance
    halves = [{name: x[part] for name, x in batch.items()} for part in np.split(np.arange(8), 2)]
    with model_of(base, "wayward", WAYWARD_TEXT=TEXT, WAYWARD_WEIGHT=3.0) as model:
        assert_same(model.loss_fn(params, batch, None)[0], expected)
        assert_same(model.eval_fn(params, batch)[0], expected)
        assert_same(sum(model.loss_fn(params, half, None)[0] for half in halves), expected)


def text_rows(weights, length):
    ids = load_vocabulary(BUNDLED / "spiece.model").encode(TEXT)
    return weights["token_embedder/embedding"][np.resize(ids, length)]


@pytest.mark.slow
def test_a_wayward_prompt_learns_near_its_text(base, tmp_path):
    told = {"WAYWARD_TEXT": TEXT, "PROMPT_INIT": "uniform", "LEARNING_RATE": 0.1}
    distances = {}
    for weight in (0.0, 1000.0):
        run = train(tmp_path / str(weight), base, "wayward", **told, WAYWARD_WEIGHT=weight)
        first, last = moved(base, run)
        text = f"{PROMPT_FOLDER}wayward"
        assert last.keys() == {PROMPT, text}
        rows = text_rows(t5x_runs.weights(base), len(last[PROMPT]))
        np.testing.assert_array_equal(first[text], rows)
        np.testing.assert_array_equal(last[text], rows)
        distances[weight] = [np.mean(np.sum((x[PROMPT] - rows) ** 2, 1)) for x in (first, last)]
        np.testing.assert_array_equal(load_prompt(run / "prompts" / "15").values, last[PROMPT])
        t5x_runs.evaluate(tmp_path / f"eval {weight}", base, PROMPT_FILE=str(run / "prompts/15"))
    (begun, free), (same, held) = distances.values()
    assert begun == same
    assert held < 0.5 * begun
    assert held < free


LABELS = ["negative", "positive"]
MARGIN = 0.2


def numpy_scores(weights, batch, length_normalize):
    """Of each answer [B, C], from this library's own logits."""
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    prompt = weights[PROMPT]
    others = {name: x for name, x in weights.items() if name != PROMPT}
    model = FrozenModel(t5x_runs.CONFIG, unflatten(others), vocabulary)
    scores = []
    for label in LABELS:
        ids = np.array([*vocabulary.encode(label), 1])
        inputs = batch["encoder_input_tokens"]
        before = np.tile([0, *ids[:-1]], (len(inputs), 1)).astype(np.int32)
        logits = np.asarray(model.logits(inputs, before, prompt), np.float64)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        found = logits[:, np.arange(len(ids)), ids].sum(axis=1)
        scores.append(found / len(ids) if length_normalize else found)
    return np.stack(scores, axis=1)


def numpy_loss(scores, right, kind):
    total = 0.0
    for row, c in zip(scores, right, strict=True):
        if kind == "perceptron":
            total += max(0.0, MARGIN + max(np.delete(row, c)) - row[c])
        else:
            total += np.log(np.sum(np.exp(row))) - row[c]
    return total


@pytest.mark.parametrize("length_normalize", [True, False])
@pytest.mark.parametrize("method", ["perceptron", "label_cross_entropy"])
def test_a_loss_over_answers_is_that_of_numpy(base, weights, batch, method, length_normalize):
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    answers = [[*vocabulary.encode(label), 1] for label in LABELS]
    right = [answers.index([t for t in row if t]) for row in batch["decoder_target_tokens"]]
    assert len(set(right)) == 2
    scores = numpy_scores(weights, batch, length_normalize)
    expected = numpy_loss(scores, right, method), np.mean(scores.argmax(axis=1) == right)
    told = {"LENGTH_NORMALIZE": length_normalize, "VERBALIZERS": LABELS}
    # Rows that only fill the batch count for nothing; an answer that is none is no number.
    empty = {name: np.concatenate([x, np.zeros_like(x)]) for name, x in batch.items()}
    other = batch | {"decoder_target_tokens": batch["decoder_target_tokens"] + 1}
    with model_of(base, method, **told) as model:
        for some in (batch, empty):
            loss, metrics = model.loss_fn(unflatten(weights), some, None)
            assert_same(loss, expected[0])
            assert metrics["accuracy"].compute() == expected[1]
        assert np.isnan(model.loss_fn(unflatten(weights), other, None)[0])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["perceptron", "label_cross_entropy"])
def test_a_prompt_learns_to_rank_answers(base, tmp_path, method):
    run = train(tmp_path / "run", base, method)
    first, last = moved(base, run)
    assert np.abs(last[PROMPT] - first[PROMPT]).mean() > 0.1
    file = f"{METHODS}/{method}.gin"
    told = {"PROMPT_FILE": str(run / "prompts" / "15"), "LENGTH_NORMALIZE": False}
    lengths = {"inputs": 128, "targets": 4}
    said = t5x_runs.infer(tmp_path / "infer", base, file, **told, TASK_FEATURE_LENGTHS=lengths)
    vocabulary = load_vocabulary(BUNDLED / "spiece.model")
    model = FrozenModel(t5x_runs.CONFIG, unflatten(t5x_runs.weights(base)), vocabulary)
    examples = bundled_examples("bundled_sentiment", "validation")
    texts = [example["inputs"] for example in examples]
    labels = model.classify(
        texts, LABELS, load_prompt(run / "prompts" / "15"), max_input_length=128
    ).labels
    assert said == labels
    scores = t5x_runs.evaluate(tmp_path / "eval", base, file, **told, TASK_FEATURE_LENGTHS=lengths)
    right = [label == example["targets"] for label, example in zip(labels, examples, strict=True)]
    assert scores["accuracy"] == pytest.approx(100 * np.mean(right))


def test_a_loss_over_answers_needs_answers(base):
    refuse(base, "perceptron", "needs VERBALIZERS", VERBALIZERS=["one"])
    refuse(base, "perceptron", "leave out LOSS_NORMALIZING_FACTOR", LOSS_NORMALIZING_FACTOR=10)
