"""Private training: what one example may change, what noise is on it, and what that costs."""

import json
import math

import causal_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from common import assert_same, slow

from prompt_tuning_jax import ExampleList, load_model, load_prompt, train, train_many
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.params import PROMPT_NAME, split_params
from prompt_tuning_jax.settings.train_config import TrainConfig, check_settings
from prompt_tuning_jax.training.checks import check_private
from prompt_tuning_jax.training.private import budget
from prompt_tuning_jax.training.private.gradients import noised
from prompt_tuning_jax.training.private.sampling import PoissonBatches, rows_at_once
from prompt_tuning_jax.training.private.secret import FILE, Secret
from prompt_tuning_jax.training.set_up import place
from prompt_tuning_jax.training.train_step import make_train_step

NEEDS_EXTRA = "need dp-accounting: pip install '.[privacy]'"
EXAMPLES = 7  # the rows of a batch that are not padding
RULES = [(PROMPT_NAME, optax.sgd(1.0))]
SECRET = {"words": [1, 2, 3, 4]}


@pytest.fixture
def library():
    return pytest.importorskip("dp_accounting", reason=NEEDS_EXTRA)


# --- one step


def batch_of(model, rows):
    """Random rows of several lengths and weights."""
    rng, pad_id = np.random.default_rng(3), model.config.pad_id
    sizes = {"encoder_input_tokens": 6, "decoder_input_tokens": 3, "decoder_target_tokens": 3}
    batch = {name: rng.integers(3, 30, (rows, n)).astype(np.int32) for name, n in sizes.items()}
    for row in range(rows):
        batch["encoder_input_tokens"][row, 2 + row % 5 :] = pad_id
    for tokens in batch.values():
        tokens[EXAMPLES:] = pad_id
    weights = (np.arange(rows * 3) % 5 < 3).reshape(rows, 3).astype(np.float32)
    weights[EXAMPLES:] = 0
    return batch | {"decoder_loss_weights": weights}


def prompt_for(model):
    shape = (5, model.config.emb_dim)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def private_config(**changes):
    known = {"dp_noise_multiplier": 0.5, "dp_clip_norm": 1.0, "batch_size": 5, "dropout_rate": 0.0}
    return TrainConfig(**(known | changes))


def private_step(model, config, batch, mesh="data:1"):
    """What a step of plain descent takes off the prompt, and the metrics."""
    mesh = sharding.make_mesh(mesh, jax.devices()[: 2 if ":2" in mesh else 1])
    model = model.replace(mesh=mesh if mesh.size > 1 else None)
    start = prompt_for(model)
    trainable, frozen = place(mesh, model, *split_params(model.prompted(start).params, RULES))
    optimizer = optax.sgd(1.0)
    state = optimizer.init(trainable)
    batch = sharding.put(batch, sharding.batch_sharding(mesh))
    step = make_train_step(config, model, optimizer)
    trained, _, metrics = step(trainable, state, frozen, batch, jax.random.key(5))
    return start - np.asarray(trained[PROMPT_NAME]), jax.device_get(metrics)


def noise_of_step(model, config):
    zeros = {PROMPT_NAME: jnp.zeros((5, model.config.emb_dim))}
    return np.asarray(noised(zeros, config, jax.random.key(5))[PROMPT_NAME])


def one_by_one(model, batch):
    """Each example's gradient [n, P, D], computed alone."""
    gradient = jax.jit(jax.grad(lambda prompt, row: model.loss(row, prompt)))
    rows = ({name: x[i : i + 1] for name, x in batch.items()} for i in range(EXAMPLES))
    return np.array([gradient(prompt_for(model), row) for row in rows])


@pytest.fixture(scope="module", params=["t5", slow("causal")])
def either(request, model):
    return model if request.param == "t5" else load_model(causal_models.MODELS["qwen3"])


@pytest.mark.parametrize(
    ("passes", "changes"),
    [(1, {}), slow(3, {"microbatches": 3}), slow(2, {"batch_size": 2})],
    ids=["whole", "microbatches", "a_large_sample"],
)
def test_a_step_is_the_clipped_sum_of_single_examples_and_noise(either, passes, changes):
    rows = rows_at_once(private_config(**changes), 1) * passes
    batch = batch_of(either, rows)
    gradients = one_by_one(either, batch)
    norms = np.linalg.norm(gradients, axis=(1, 2))
    clip_norm = float(norms.min() + norms.max()) / 2
    assert norms.min() < 0.9 * clip_norm < 1.1 * clip_norm < norms.max()  # some are clipped
    clipped = gradients * np.minimum(1, clip_norm / norms)[:, None, None]
    config = private_config(**changes, dp_clip_norm=clip_norm)
    moved, metrics = private_step(either, config, batch)
    assert_same(moved, clipped.sum(axis=0) + noise_of_step(either, config))
    loss = float(either.loss(batch, prompt_for(either))) / batch["decoder_loss_weights"].sum()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)


def test_an_example_that_is_not_finite_counts_for_nothing(model):
    """A weight of NaN stands for whatever makes a loss so."""
    batch = batch_of(model, 9)
    without = {name: x.copy() for name, x in batch.items()}
    batch["decoder_loss_weights"][2, 0] = np.nan
    without["decoder_loss_weights"][2] = 0
    (ours, metrics), (theirs, _) = (
        private_step(model, private_config(), x) for x in (batch, without)
    )
    assert_same(ours, theirs)
    assert metrics["finite"]


def test_an_empty_sample_is_a_step_of_noise_alone(model):
    batch = batch_of(model, 9)
    batch["decoder_loss_weights"] = np.zeros_like(batch["decoder_loss_weights"])
    moved, metrics = private_step(model, private_config(), batch)
    assert_same(moved, noise_of_step(model, private_config()))
    assert metrics["loss"] == 0
    assert metrics["finite"]


@pytest.mark.slow
def test_over_devices_it_is_the_same_step(model):
    batch = batch_of(model, 10)
    config = private_config(microbatches=1)
    assert rows_at_once(config, 2) == 10
    split = private_step(model, config, batch, "data:2")
    assert_same(
        split[0], private_step(model, config, {name: x[:9] for name, x in batch.items()})[0]
    )


# --- noise


def test_the_noise_has_its_scale_and_is_normal():
    """20,000 numbers: 1 / sqrt(2 n) is 0.5 % of the scale, and quantiles are within 1.5 %."""
    config = private_config(dp_noise_multiplier=0.8, dp_clip_norm=2.5)
    grads = {"a": jnp.full((100, 150), 7.0), "b": jnp.full((50, 100), -3.0)}
    made = noised(grads, config, jax.random.key(1))
    noise = np.concatenate([(made[name] - grads[name]).ravel() for name in grads]) / (0.8 * 2.5)
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / math.sqrt(2 * noise.size)
    for deviations, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((np.abs(noise) < deviations).mean() - share) < 0.015
    one, other = (np.asarray(noised(grads, config, jax.random.key(i))["a"]) for i in (1, 2))
    np.testing.assert_array_equal(one, made["a"])
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.04
    a, b = (np.asarray(made[name] - grads[name])[:50, :100].ravel() for name in grads)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


# --- samples


def poisson(vocabulary, secret=(3, 4), batch_size=10, rows=15, at_once=5, n=60):
    """Batches of examples that their first word tells apart."""
    source = ExampleList({"inputs": [10 + i, 1], "targets": [5, 1]} for i in range(n))
    return PoissonBatches(
        source,
        vocabulary,
        batch_size=batch_size,
        lengths=tiny.LENGTHS,
        secret=secret,
        rows=rows,
        at_once=at_once,
    )


def drawn(batch):
    """Which examples are in a batch."""
    rows = batch["decoder_loss_weights"].sum(axis=1) > 0
    return batch["encoder_input_tokens"][rows, 0] - 10


def test_every_example_is_drawn_by_a_coin_of_its_own(vocabulary):
    n, share, steps = 60, 1 / 6, 2000
    stream = poisson(vocabulary)
    taken = np.zeros((steps, n))
    for row in taken:
        batch = next(stream)
        chosen = drawn(batch)
        assert len(set(chosen)) == len(chosen)  # no example twice
        row[chosen] = 1
        rows = len(batch["decoder_loss_weights"])
        assert rows == max(15, -(-len(chosen) // 5) * 5)  # and none is left out
    spread = math.sqrt(share * (1 - share))
    assert np.abs(taken.mean(axis=0) - share).max() < 4.5 * spread / math.sqrt(steps)
    sizes = taken.sum(axis=1)
    assert sizes.max() > 15
    assert abs(sizes.var() / (n * spread**2) - 1) < 4 * math.sqrt(2 / steps)
    together = np.corrcoef(taken.T)[~np.eye(n, dtype=bool)]
    assert np.abs(together).max() < 5 / math.sqrt(steps)


def test_a_sample_is_the_secrets_and_the_steps(vocabulary):
    stream = poisson(vocabulary)
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    again = poisson(vocabulary)
    again.set_state(state)
    for _ in range(3):
        ours, theirs = next(stream), next(again)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    other = poisson(vocabulary, secret=(3, 5))
    other.set_state(state)
    assert not np.array_equal(drawn(next(other)), drawn(next(poisson(vocabulary))))


def test_an_empty_sample_is_a_batch_of_padding(vocabulary):
    stream = poisson(vocabulary, batch_size=1, rows=3)
    batches = [next(stream) for _ in range(20)]
    empty = [batch for batch in batches if not len(drawn(batch))]
    assert empty
    assert all(len(batch["decoder_loss_weights"]) == 3 for batch in empty)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_the_key_is_the_secrets_whatever_jax_draws_with(tmp_path, generator):
    """Its words are a key of threefry, which another default must not take for one of its own."""
    config = TrainConfig(model_dir=with_secret(tmp_path / "run"), dp_noise_multiplier=1.0)
    with jax.default_prng_impl(generator):
        key = Secret(config).key(0)
        drawn_bits = jax.random.bits(jax.random.fold_in(key, 1), 4)
    expected = jax.random.wrap_key_data(
        np.array(SECRET["words"][:2], np.uint32), impl="threefry2x32"
    )
    assert_same(drawn_bits, jax.random.bits(jax.random.fold_in(expected, 1), 4))


# --- runs


@pytest.fixture
def settings(model, one_device, library):
    return {
        "model": model,
        "task": tiny.make_task(),
        "feature_lengths": tiny.LENGTHS,
        "batch_size": 8,
        "prompt_length": 5,
        "train_steps": 6,
        "eval_period": 3,
        "checkpoint_period": 2,
        "learning_rate": 0.05,
        "quiet": True,
    }


def with_secret(path):
    path.mkdir(parents=True)
    (path / FILE).write_text(json.dumps(SECRET))
    return str(path)


def test_a_run_says_what_it_cost_and_goes_on_as_if_never_stopped(
    settings, library, tmp_path, capsys
):
    """With dropout, which is drawn from the same secret."""
    private = settings | {"dp_noise_multiplier": 0.8}
    whole = train(**private, model_dir=with_secret(tmp_path / "whole"))
    said = " ".join(capsys.readouterr().out.split())
    first = train(**(private | {"train_steps": 4}), model_dir=with_secret(tmp_path / "parts"))
    assert first.history[-1]["epsilon"] < whole.history[-1]["epsilon"]
    train(**private, model_dir=str(tmp_path / "parts"))
    for file in ("last/prompt.safetensors", "prompts/6/prompt.json"):
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()

    accountant = library.pld.PLDAccountant(library.NeighboringRelation.ADD_OR_REMOVE_ONE)
    event = library.PoissonSampledDpEvent(8 / 60, library.GaussianDpEvent(0.8))
    theirs = accountant.compose(event, 6).get_epsilon(60**-1.1)
    assert [scores["step"] for scores in whole.history] == [3, 6]
    assert "train_loss" not in whole.history[0]
    np.testing.assert_allclose(whole.history[-1]["epsilon"], theirs, rtol=2e-3)
    assert whole.history[-1]["epsilon"] >= theirs
    assert "noise multiplier 0.8: epsilon" in said
    assert f"epsilon {whole.history[0]['epsilon']:.4g} delta {60**-1.1:.4g}" in said
    for name, steps in (("best", 6), ("last", 6), ("prompts/3", 3), ("prompts/0", 0)):
        facts = load_prompt(tmp_path / "whole" / name).metadata
        assert facts["privacy"]["steps"] == steps
        known = {0: 0.0} | {scores["step"]: scores["epsilon"] for scores in whole.history}
        assert facts["privacy"]["epsilon"] == known[steps]
        assert not {"train_loss", "epsilon"} & set(facts.get("scores", ()))
    facts = facts["privacy"]
    assert (facts["examples"], facts["noise_multiplier"], facts["clip_norm"]) == (60, 0.8, 1.0)
    assert facts["sampling_probability"] == 8 / 60


@pytest.mark.slow
@pytest.mark.usefixtures("library")
def test_however_large_an_epsilon_there_is_some_noise():
    assert budget.noise_of(500.0, 0.2, 3, 1e-3) == 0.1
    assert budget.epsilon_of(0.1, 0.2, 3, 1e-3) < 500


@pytest.mark.slow
def test_epsilon_finds_its_noise_which_stays(settings, library, tmp_path):
    result = train(**settings, dp_epsilon=3.0, model_dir=str(tmp_path / "a"))
    assert 2.99 < result.history[-1]["epsilon"] <= 3.0
    path = tmp_path / "a" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    longer = settings | {"train_steps": 8, "dp_epsilon": 3.0}
    with pytest.raises(ValueError, match=r"another run \(dp_noise_multiplier was 0\.\d+, now "):
        train(**longer, model_dir=str(tmp_path / "a"))
    path.unlink()
    with pytest.raises(ValueError, match=r"its noise is of another secret\.json"):
        train(**settings, dp_epsilon=3.0, model_dir=str(tmp_path / "a"))


@pytest.mark.slow
def test_together_each_is_as_alone(settings, tmp_path):
    """Without dropout, whose masks differ with the padding; at a rate that rounding survives."""
    settings |= {"dp_noise_multiplier": 0.8, "trainable": tiny.PLAIN_STEPS, "dropout_rate": 0.0}
    del settings["learning_rate"]
    runs = {"a": {"seed": 0}, "b": {"seed": 1}}
    for name in runs:
        with_secret(tmp_path / "many" / name)
    together = train_many(runs, **settings, model_dir=str(tmp_path / "many"))
    for name, changes in runs.items():
        alone = train(**settings, **changes, model_dir=with_secret(tmp_path / name))
        np.testing.assert_allclose(
            together[name].prompt.values, alone.prompt.values, rtol=1e-5, atol=1e-5
        )
        epsilons = [[x["epsilon"] for x in one.history] for one in (together[name], alone)]
        assert epsilons[0] == epsilons[1]


@pytest.mark.slow
def test_runs_of_other_noise_are_trained_apart(settings, tmp_path):
    runs = {"a": {}, "b": {"train_steps": 3}}
    with pytest.raises(ValueError, match="dp_epsilon 3 asks for another noise in each"):
        train_many(runs, **settings, dp_epsilon=3.0, model_dir=str(tmp_path))


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dp_epsilon": None, "dp_clip_norm": 1.0}, "dp_clip_norm alone keeps nothing private"),
        ({"dp_epsilon": None, "dp_delta": 1e-5}, "dp_delta alone keeps nothing private"),
        ({"dp_noise_multiplier": 0.8}, "dp_epsilon and dp_noise_multiplier follow from each other"),
        ({"pack": True}, "pack=True cannot be trained privately"),
        ({"loss_normalization": "mean"}, "loss_normalization=mean cannot be trained privately"),
        ({"prompt_length": 0}, "prompt_length=0 cannot be trained privately"),
        ({"method": "both_prompts"}, "method=both_prompts cannot be trained privately"),
    ],
)
def test_settings_that_it_does_not_hold_for(tmp_path, one_device, changes, words):
    with pytest.raises(ValueError, match=words):
        check_settings(TrainConfig(**({"model_dir": str(tmp_path), "dp_epsilon": 3.0} | changes)))


class Stream:
    """Examples that can only be read in their order."""

    def __len__(self):
        return 60

    def stream(self, *, seed, epoch, start=0):
        yield from tiny.make_task().split("train")[start:]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 61}, "batch_size 61 is more than the 60 training examples"),
        ({"dp_delta": 0.05}, r"dp_delta 0\.05 is no less than 1 / n of the 60"),
        (
            {"task": tiny.make_task(splits={"train": Stream()})},
            "those of this task can only be read in their order",
        ),
        (
            {"trainable": [("encoder/prompt/prompt|decoder/.*scale", optax.sgd(0.1))]},
            "Only a prompt can be trained privately, not decoder/",
        ),
    ],
    ids=["batch", "delta", "stream", "weights"],
)
def test_data_and_rules_that_it_does_not_hold_for(settings, tmp_path, changes, words):
    if "trainable" in changes:
        del settings["learning_rate"]
    with pytest.raises(ValueError, match=words):
        train(**(settings | {"dp_epsilon": 3.0, "model_dir": str(tmp_path)} | changes))


def test_several_hosts_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="Private training runs on one host, and these are 2"):
        check_private(private_config(), {})


def test_without_the_library_it_says_which_extra(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"prompt-tuning-jax\[privacy\]"):
        train(**settings, dp_epsilon=3.0, model_dir=str(tmp_path))


def test_other_data_are_another_run(settings, tmp_path):
    private = settings | {"dp_noise_multiplier": 0.8, "model_dir": str(tmp_path), "train_steps": 2}
    train(**private)
    rows = tiny.make_task().splits
    fewer = {"train": ExampleList(rows["train"][1:]), "validation": rows["validation"]}
    with pytest.raises(ValueError, match="examples have changed since this run began"):
        train(**(private | {"task": tiny.make_task(splits=fewer), "train_steps": 4}))
