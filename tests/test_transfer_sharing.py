"""Prompts of several tasks that have a part in common."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from causal_models import MODELS
from common import slow

from prompt_tuning_jax import TrainConfig, load_model, load_prompt, optim, train, train_many
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.methods import distillation
from prompt_tuning_jax.methods.shared_parts import COMMON, Sharing, fold, start
from prompt_tuning_jax.params import flatten
from prompt_tuning_jax.training.transfer.mixed_trainer import mixed_gradients
from prompt_tuning_jax.training.transfer.shared_trainer import (
    make_shared_step,
    stacked_gradients,
    start_states,
)

pytestmark = pytest.mark.usefixtures("one_device")


def prompts(count=3, length=4, width=16, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, length, width))


@pytest.mark.parametrize(
    ("sharing", "expected"),
    [
        (Sharing("add"), lambda x: x),
        (Sharing("product"), lambda x: jnp.broadcast_to(x.mean(axis=0)[None], x.shape)),
        (Sharing("product", rank=3), lambda x: jnp.broadcast_to(x.mean(axis=0)[None], x.shape)),
        (Sharing("project"), lambda x: jnp.broadcast_to(x.mean(axis=0)[None], x.shape)),
        (
            Sharing("concatenate", rows=1),
            lambda x: jnp.concatenate([jnp.broadcast_to(x[:1, 3:], (3, 1, 16)), x[:, :3]], axis=1),
        ),
    ],
)
def test_where_parts_begin(key, sharing, expected):
    made = start(sharing, key, prompts())
    np.testing.assert_allclose(fold(sharing.form, made), expected(prompts()), atol=1e-6)


def test_all_ranks_of_a_product_can_move(key):
    """None begins where its gradient is 0 in both factors."""
    made = start(Sharing("product", rank=3), key, prompts())
    wanted = prompts(seed=1)
    grads = jax.grad(lambda x: jnp.square(fold("product", x) - wanted).sum())(made)
    moves = np.abs(grads["rows"]).max(axis=(0, 2)) + np.abs(grads["columns"]).max(axis=(0, 1))
    assert (moves > 1e-3).all()


def test_a_projection_is_an_affine_map_of_each_common_row(key):
    """As the reference implementation's docstring has it, row by row and task by task."""
    kernel, bias = (prompts(2, rows, 16, seed)[:, :, :16] for rows, seed in ((16, 1), (1, 2)))
    common = prompts(1, 4, 16)[0]
    made = fold("project", {COMMON: common, "kernel": kernel, "bias": bias[:, 0]})
    for n in range(2):
        for p in range(4):
            row = np.float64(common[p])
            expected = row + row @ np.float64(kernel[n]) / 16 + bias[n, 0]
            np.testing.assert_allclose(made[n, p], expected, atol=1e-5)


# --- the step


@pytest.fixture(scope="module", params=["t5", slow("causal")])
def frozen(request, model):
    return model if request.param == "t5" else load_model(MODELS["qwen3"])


def two_batches(model):
    batches = TrainBatches(
        tiny.make_task().split("train"),
        model.vocabulary,
        batch_size=4,
        lengths={"inputs": 48, "targets": 8},
        seed=0,
    )
    first, second = next(batches), next(batches)
    return {name: jnp.stack([x, second[name]]) for name, x in first.items()}


@pytest.mark.parametrize(
    ("form", "normalization", "mixed", "taught"),
    [
        slow("product", "sum", False, False),
        ("product", "sum", True, True),
        slow("product", "mean", True, True),
        slow("product", "mean", False, True),
        slow("add", "sum", False, False),
        slow("concatenate", "mean", False, False),
        slow("concatenate", "sum", True, False),
        slow("project", "sum", False, False),
        slow("project", "mean", True, False),
    ],
)
def test_a_step_goes_down_the_sum_of_the_losses(
    frozen, monkeypatch, form, normalization, mixed, taught
):
    """The gradient of what is common is summed over the tasks; that of a task's own is its own.

    A batch that mixes the tasks' rows, in any order, is their rows with their prompts. Teachers,
    each of its task and longer here, add how far the model's answers are from those behind them.
    """
    monkeypatch.setitem(optim.OPTIMIZERS, "adamw", optax.sgd)
    config = TrainConfig(
        share=form,
        optimizer="adamw",
        learning_rate=0.1,
        dropout_rate=0.0,
        prompt_length=4,
        loss_normalization=normalization,
        teacher_weight=0.5,
    )
    batch, width = two_batches(frozen), frozen.config.emb_dim
    given = prompts(2, 4, width)
    parts = start(Sharing(form, rows=1), jax.random.key(0), given)

    teachers = prompts(2, 6, width, seed=3)

    def apart(one, prompt, teacher):
        tokens = one["encoder_input_tokens"], one["decoder_input_tokens"]
        mine, theirs = (jax.nn.log_softmax(frozen.logits(*tokens, x)) for x in (prompt, teacher))
        each = jnp.sum(jnp.exp(theirs) * (theirs - mine), axis=-1)
        return jnp.sum(each * one["decoder_loss_weights"])

    def total(parts):
        bank = fold(form, parts)
        each = [{name: x[n] for name, x in batch.items()} for n in range(2)]
        losses = [frozen.loss(one, bank[n]) for n, one in enumerate(each)]
        if taught:
            losses = [x + 0.5 * apart(each[n], bank[n], teachers[n]) for n, x in enumerate(losses)]
        if normalization == "mean":
            counts = [one["decoder_loss_weights"].sum() for one in each]
            if mixed:
                counts = [sum(counts)] * 2
            losses = [x / count for x, count in zip(losses, counts, strict=True)]
        return losses[0] + losses[1]

    grads = jax.grad(total)(parts)
    expected = jax.tree.map(lambda x, g: np.asarray(x - 0.1 * g), dict(parts), dict(grads))
    gradients = (mixed_gradients if mixed else stacked_gradients)(config, frozen)
    step = make_shared_step(config, gradients)
    if mixed:
        order = np.random.default_rng(0).permutation(8)
        batch = {name: x.reshape(8, -1)[order] for name, x in batch.items()}
        batch["prompt_ids"] = jnp.asarray(order // 4)
    states = start_states(optax.sgd(0.1), parts)
    keys = jnp.stack([jax.random.key(0)] * 2)
    weights = flatten(frozen.params) | ({distillation.NAME: teachers} if taught else {})
    given = dict(parts), states, weights, batch, keys, jnp.int32(0)
    new, _, metrics, means = step(*given)
    assert new.keys() == expected.keys()
    for name, x in expected.items():
        most = 0.1 * np.abs(grads[name]).max()
        np.testing.assert_allclose(new[name], x, atol=1e-4 * most + 1e-6)
    assert metrics["loss"].shape == (2,)
    assert bool(means["finite"])


# --- runs


def settings_of(model, place, **changes):
    settings = tiny.short_run(model, place, train_steps=4, eval_period=2, checkpoint_period=2)
    return settings | changes


RUNS = {"one": {}, "two": {"seed": 1}}


@pytest.mark.parametrize("form", ["concatenate", slow("add"), slow("product")])
def test_runs_leave_whole_prompts_and_what_they_share(frozen, tmp_path, form):
    settings = settings_of(frozen, tmp_path, share=form)
    results = train_many(RUNS, **settings)
    shared = load_prompt(tmp_path / "shared")
    frozen.check(shared)
    assert shared.metadata["shared_by"] == {"one": "food", "two": "food"}
    last = [load_prompt(tmp_path / name / "last") for name in RUNS]
    if form == "concatenate":
        assert shared.shape[0] == 2
        for prompt in last:
            np.testing.assert_array_equal(prompt.values[:2], shared.values)
        assert np.abs(last[0].values[2:] - last[1].values[2:]).max() > 0.01
    else:
        assert shared.shape == last[0].shape
    for name, prompt in zip(RUNS, last, strict=True):
        began = load_prompt(tmp_path / name / "prompts" / "0")
        assert began.shape == prompt.shape == (5, frozen.config.emb_dim)
        assert np.abs(began.values - prompt.values).max() > 0.01
        assert results[name].history[-1]["step"] == 4
        frozen.check(prompt)


@pytest.mark.slow
def test_runs_that_go_on_are_the_runs_uninterrupted(frozen, tmp_path):
    settings = settings_of(frozen, tmp_path, share="add", dropout_rate=0.1)
    train_many(RUNS, **settings | {"model_dir": str(tmp_path / "whole")})
    for steps in (2, 4):
        train_many(RUNS, **settings | {"model_dir": str(tmp_path / "parts"), "train_steps": steps})
    for name in ("one/last", "two/best", "shared"):
        whole, parts = (load_prompt(tmp_path / each / name) for each in ("whole", "parts"))
        np.testing.assert_array_equal(whole.values, parts.values)
    with pytest.raises(ValueError, match="share was 'add', now 'product'"):
        train_many(RUNS, **settings | {"model_dir": str(tmp_path / "parts"), "share": "product"})


@pytest.mark.parametrize(
    ("runs", "changes", "message"),
    [
        ({"one": {}}, {}, "share=add is of several runs"),
        ({"one": {}, "shared": {}}, {}, "none of which is called 'shared'"),
        ({"one": {"train_steps": 2}, "two": {}}, {}, "set train_steps for all, not for 'one'"),
        ({"one": {}, "two": {"learning_rate": 0.1}}, {}, "set learning_rate for all, not for"),
        (RUNS, {"patience": 2}, "With share=add leave out patience"),
        (RUNS, {"average_decay": 0.9}, "With share=add leave out average_decay"),
        (RUNS, {"prompt_parameterization": "low_rank"}, "leave out prompt_parameterization"),
        (RUNS, {"prompt_length": 0, "learning_rate": None}, "share=add is of prompts, but model"),
        (RUNS, {"method": "both_prompts"}, "share=add is of prompts, but both_prompts trains"),
        (RUNS, {"share_rows": 2}, "share_rows is for share=concatenate alone"),
        (RUNS, {"share_rank": 2}, "share_rank is for share=product alone"),
        (RUNS, {"share": "concatenate", "share_rows": 5}, "share_rows is 5: of 5 rows some are"),
    ],
)
def test_what_is_refused(model, tmp_path, runs, changes, message):
    settings = settings_of(model, tmp_path, share="add", learning_rate=None) | changes
    with pytest.raises(ValueError, match=message):
        train_many(runs, **settings)


def test_one_run_shares_with_nobody(model, tmp_path):
    with pytest.raises(ValueError, match="share is between several runs: set these"):
        train(**settings_of(model, tmp_path, share="add"))
