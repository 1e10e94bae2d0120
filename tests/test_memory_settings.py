"""Settings that trade time for memory: a run learns what it learns without them."""

import functools

import numpy as np
import optax
import pytest
import tiny
from common import slow

from prompt_tuning_jax import load_model, train, train_many

pytestmark = pytest.mark.usefixtures("one_device")
SAVING = [
    slow({"microbatches": 4}),
    slow({"scan_layers": True, "remat_policy": "minimal"}),
    slow({"remat_policy": "full"}),
    slow({"attention_chunk": 3}),
    {"scan_layers": True, "remat_policy": "full", "attention_chunk": 4, "microbatches": 2},
]


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Trains four steps with some settings changed."""
    settings = {"prompt_length": 5, "batch_size": 8, "train_steps": 4, "eval_period": 2}
    common = {"task": tiny.make_task(), "feature_lengths": tiny.LENGTHS, "quiet": True}
    settings["trainable"] = tiny.PLAIN_STEPS
    start = functools.partial(train, dropout_rate=0.0, **settings, **common)

    def run(**changes):
        directory = tmp_path_factory.mktemp("run")
        return start(**({"model": model, "model_dir": str(directory)} | changes))

    return run


@pytest.fixture(scope="module")
def plain(run):
    return run()


@pytest.mark.parametrize("saving", SAVING, ids=lambda saving: "-".join(saving))
def test_a_run_learns_the_same(run, plain, saving):
    ours = run(**saving)
    np.testing.assert_allclose(ours.prompt.values, plain.prompt.values, atol=1e-5)
    for mine, theirs in zip(ours.history, plain.history, strict=True):
        np.testing.assert_allclose(mine["loss"], theirs["loss"], rtol=1e-5)
    name = "base_model_fingerprint"
    assert ours.prompt.metadata[name] == plain.prompt.metadata[name]


@pytest.mark.slow
def test_many_prompts_on_stacked_layers(run, plain, model, tmp_path):
    config = {"task": tiny.make_task(), "feature_lengths": tiny.LENGTHS, "quiet": True}
    settings = {"prompt_length": 5, "batch_size": 8, "train_steps": 4, "eval_period": 2}
    both = train_many(
        {"one": {}, "two": {"seed": 1}},
        model=model,
        model_dir=str(tmp_path),
        dropout_rate=0.0,
        trainable=tiny.PLAIN_STEPS,
        scan_layers=True,
        remat_policy="minimal",
        **settings,
        **config,
    )
    ours = both["one"].prompt.values
    np.testing.assert_allclose(ours, plain.prompt.values, atol=1e-5)


@pytest.mark.slow
def test_int8_weights_are_stacked_too(run, model_dir):
    model = load_model(model_dir, dtype="int8")
    ours, theirs = (run(model=model, model_dtype="int8", scan_layers=x) for x in (True, False))
    np.testing.assert_allclose(ours.prompt.values, theirs.prompt.values, atol=1e-5)
    assert ours.model.fingerprint == theirs.model.fingerprint


@pytest.mark.parametrize(
    "changes", [{"prompt_length": 0, "trainable": None}, {"trainable": ((".*", optax.adam(0.1)),)}]
)
def test_stacked_weights_do_not_train(run, changes):
    with pytest.raises(ValueError, match="With scan_layers only the prompt can train"):
        run(scan_layers=True, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remat_policy": "most"}, "remat_policy must be one of none, minimal, full, got 'most'"),
        ({"attention_chunk": 0}, "attention_chunk must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(run, changes, words):
    with pytest.raises(ValueError, match=words):
        run(**changes)
