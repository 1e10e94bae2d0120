"""Runs that train an adapter: what moves, what is written and used again, what is refused."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest
import tiny
from causal_models import MODELS
from common import slow
from family_laws import assert_alike

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.commands.inference.infer import main as infer
from prompt_tuning_jax.commands.train import main as train
from prompt_tuning_jax.evaluation.scoring import evaluate_task
from prompt_tuning_jax.methods import wayward
from prompt_tuning_jax.methods.adapters import choice
from prompt_tuning_jax.methods.adapters.method import Options
from prompt_tuning_jax.params import PROMPT_NAME, flatten, without_prompt
from prompt_tuning_jax.settings.parts.method import OF_LENGTH
from prompt_tuning_jax.training import compiled_step, set_up

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def causal():
    return pt.load_model(MODELS["qwen3"])


def settings(model, directory, method, **changes):
    """Two evaluations; `prompt_length` only where the method has one."""
    short = tiny.short_run(model, directory, method=method, learning_rate=None, **changes)
    if method not in OF_LENGTH and "prompt_length" not in changes:
        del short["prompt_length"]
    return short


def train_loss(model):
    """Over all of the task's training examples."""
    lengths = {"inputs": 48, "targets": 8}
    return evaluate_task(model, tiny.make_task(), "train", feature_lengths=lengths).scores["loss"]


def leaves_in(directory, model):
    return load_adapter(directory, model.config).leaves


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("model", "lora"),
        slow("causal", "lora"),
        slow("model", "prefix"),
        slow("causal", "prefix"),
        slow("model", "ia3"),
        slow("causal", "ia3"),
        slow("model", "bitfit"),
        slow("causal", "bitfit"),
        slow("model", "decoder_prompt"),
        slow("model", "both_prompts"),
    ],
)
def test_its_leaves_train_and_nothing_else(request, kind, method, tmp_path):
    model = request.getfixturevalue(kind)
    before = jax.tree.map(np.asarray, model.params)
    result = pt.train(**settings(model, tmp_path / "run", method))
    assert result.prompt is None
    jax.tree.map(np.testing.assert_array_equal, model.params, before)
    kept = without_prompt(choice.without_leaves(flatten(result.model.params)))
    assert kept.keys() == flatten(before).keys()
    for name, values in kept.items():
        np.testing.assert_array_equal(values, flatten(before)[name])
    config = pt.TrainConfig(**settings(model, tmp_path, method))
    begun = set_up.with_adapter(config, model, set_up.start_params(config, model, tiny.make_task()))
    start = {name: x for name, x in flatten(begun).items() if name not in kept}
    assert train_loss(result.model) < train_loss(model.replace(params=begun))
    last = leaves_in(tmp_path / "run" / "last", model)
    assert last.keys() == start.keys()
    for name, values in last.items():
        frozen = name.rpartition("/")[2] in choice.METHODS[config.adapter].FROZEN
        assert frozen == np.array_equal(values, start[name]), name
    # What was written scores as it did in the run.
    adapter = str(tmp_path / "run" / "last")
    scores = pt.evaluate(
        model=model,
        task=tiny.make_task(),
        adapter=adapter,
        feature_lengths={"inputs": 48, "targets": 8},
    ).scores
    assert scores["loss"] == pytest.approx(result.history[-1]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_resumed_it_is_the_run_that_was_never_stopped(model, method, tmp_path):
    common = {"dropout_rate": 0.1, "checkpoint_period": 3}
    pt.train(**settings(model, tmp_path / "whole", method, **common))
    pt.train(**settings(model, tmp_path / "parts", method, **common, train_steps=3))
    pt.train(**settings(model, tmp_path / "parts", method, **common))
    expected, found = (leaves_in(tmp_path / run / "last", model) for run in ("whole", "parts"))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    changed = {"lora": {"lora_rank": 2}, "prefix": {"prefix_stack": "both"}}[method]
    with pytest.raises(ValueError, match=r"lora_rank was 8, now 2|prefix_stack was 'dec"):
        pt.train(**settings(model, tmp_path / "parts", method, **common, **changed))


@pytest.mark.slow
def test_several_at_once_are_as_alone(model, tmp_path):
    """Each run an adapter of its own, on one copy of the frozen model."""
    common = {"train_steps": 3, "eval_period": 3}
    runs = {"slow": {"learning_rate": 1e-3}, "fast": {"learning_rate": 1e-2, "seed": 1}}
    pt.train_many(runs, **settings(model, tmp_path / "many", "lora", **common))
    for name, changes in runs.items():
        alone = settings(model, tmp_path / name, "lora", **common) | changes
        pt.train(**alone)
        expected = leaves_in(tmp_path / name / "last", model)
        found = leaves_in(tmp_path / "many" / name / "last", model)
        assert_alike(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [("model", "lora"), ("causal", "prefix"), ("causal", "ia3"), ("model", "bitfit")],
)
def test_packed_it_is_the_same(request, kind, method, tmp_path):
    model = request.getfixturevalue(kind)
    common = {"train_steps": 2, "eval_period": 2, "microbatches": 1}
    pt.train(**settings(model, tmp_path / "one", method, **common, batch_size=60))
    pt.train(**settings(model, tmp_path / "packed", method, **common, batch_size=60, pack=True))
    expected, found = (leaves_in(tmp_path / run / "last", model) for run in ("one", "packed"))
    # Adam divides a gradient by its size: what rounding makes of a small one is not small. A bias
    # of a T5's keys adds the same to all scores of a query, and its gradient is rounding alone.
    keys = [name for name in expected if kind == "model" and name.endswith("key/kernel_bias")]
    assert bool(keys) == (method == "bitfit")
    for name, values in expected.items():
        if name in keys:
            continue
        close = np.isclose(found[name], values, atol=1e-4)
        assert close.mean() > 0.97, name


@pytest.mark.slow
def test_int8_weights_stay_as_they_are(model_dir, tmp_path):
    model = pt.load_model(model_dir, "int8")
    before = jax.tree.map(np.asarray, model.params)
    result = pt.train(**settings(model, tmp_path / "run", "lora", train_steps=2, eval_period=2))
    kept = choice.without_leaves(flatten(result.model.params))
    for name, values in kept.items():
        np.testing.assert_array_equal(values, flatten(before)[name])


def test_the_shapes_that_fitting_compiles_are_those_of_the_run(model, tmp_path):
    config = pt.TrainConfig(**settings(model, tmp_path, "lora"))
    params = set_up.with_adapter(config, model, model.params)
    shapes = compiled_step._params(config, model)
    expected, found = flatten(params), flatten(shapes)
    assert found.keys() == expected.keys()
    assert all(found[name].shape == np.shape(x) for name, x in expected.items())


@pytest.mark.slow
def test_commands(model_dir, tmp_path, capsys):
    """`train --method`, then `infer --adapter`, which takes words and template from its file."""
    data = tiny.save_files(tmp_path / "data")
    train(
        (
            f"--model {model_dir} --data_dir {data} --method ia3 --train_steps 2 --eval_period 2 "
            f"--batch_size 8 --model_dir {tmp_path}/run --quiet --verbalizers 0=yes 1=no "
            "--feature_lengths inputs=16 targets=4 --input_template {text}"
        ).split()
    )
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the soup was good"}\n')
    capsys.readouterr()
    infer(f"--model {model_dir} --adapter {tmp_path}/run/best --input_file {texts}".split())
    found = json.loads(capsys.readouterr().out)
    assert set(found["scores"]) == {"yes", "no"}
    shutil.rmtree(tmp_path / "run" / "state")
    facts = json.loads((tmp_path / "run" / "best" / "adapter.json").read_text())
    assert facts["input_template"] == "{text}"
    assert facts["base_model_fingerprint"] == pt.load_model(model_dir).fingerprint


@pytest.mark.parametrize("method", ["lora", None])
def test_a_model_that_has_an_adapter_is_refused(model, tmp_path, method):
    """With the leaves among its weights a prompt too would be trained for another model."""
    leaves = choice.start("ia3", jax.random.key(0), flatten(model.params), Options())
    with pytest.raises(ValueError, match="has an adapter already"):
        pt.train(**settings(model.adapted(Adapter("ia3", leaves)), tmp_path, method))


@pytest.mark.parametrize(
    ("method", "changes", "what"),
    [
        ("lora", {"lora_targets": ["gate"]}, "no layer of this network has a product 'gate'"),
        ("lora", {"scan_layers": True}, "leave out scan_layers"),
        ("lora", {"prompt_length": 7}, "has no prompt: leave prompt_length out"),
        ("ia3", {"lora_rank": 4}, "lora_rank is for method=lora"),
        ("prefix", {"pack": True}, "leave out pack"),
        ("prefix", {"prompt_length": 0}, "set it above 0"),
        ("lora", {"trainable": [(".*", optax.sgd(0.1))]}, "kernel_lora_b train and nothing else"),
        ("lora", {"prompt_parameterization": "low_rank"}, "is a prompt's"),
    ],
)
def test_what_is_refused(model, tmp_path, method, changes, what):
    with pytest.raises(ValueError, match=what):
        pt.train(**settings(model, tmp_path / "run", method, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"microbatches": 2}, {"loss_normalization": "mean"}])
def test_a_wayward_prompt_stays_near_its_text(model, tmp_path, how):
    """The further the more it is pulled, by as much in parts of a batch and of a mean."""
    rows = np.asarray(wayward.rows_of("the soup", model.embeddings, model.vocabulary, 5))
    moved = {}
    for weight in (0.0, 0.5):
        told = {"wayward_text": "the soup", "wayward_weight": weight, "prompt_init": "uniform"}
        rule = [(PROMPT_NAME, optax.sgd(0.1))]
        run = settings(model, tmp_path / str(weight), "prompt", **told, **how, prompt_length=5)
        result = pt.train(**run | {"train_steps": 1, "eval_period": 1, "trainable": rule})
        moved[weight] = result.prompt.values
    start = pt.load_prompt(tmp_path / "0.5" / "prompts" / "0").values
    pulled = 0.1 * 0.5 * 2 * (start - rows) / 5
    np.testing.assert_allclose(moved[0.0] - moved[0.5], pulled, atol=1e-5)
