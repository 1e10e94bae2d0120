"""Twenty steps of the reference implementation's own training, each made by both engines.

The golden was made with the reference's `models/t5_1_1_prompt.gin` (Flaxformer's network, T5X's
Adafactor in its MultiOptimizer) at the toy size, through T5X's `trainer.train_with_lr`, from a
checkpoint of step 0 and from one of step 1,100,000, without dropout.

An engine keeps its optimizer's state, and makes each step from the reference's prompt: left to
itself it would carry along and enlarge the rounding of the steps before, from 1e-7 to 1e-4.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDEN_CONFIG as CONFIG
from common import GOLDENS, slow
from flax.core import freeze

from prompt_tuning_jax import optim
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.t5.network import Transformer
from prompt_tuning_jax.params import PROMPT_NAME, flatten, split_params, unflatten
from prompt_tuning_jax.prompts import Prompt
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.train_step import make_train_step

GOLDEN = dict(np.load(GOLDENS / "t5x" / "reference_trajectory.npz"))
PARAMS = dict(np.load(GOLDENS / "t5x" / "prompt_encdec_params.npz"))
STARTS = (0, 1_100_000)
STEPS = len(GOLDEN["in/encoder_input_tokens"])


def first_params():
    """The reference's start, under this library's name of the prompt."""
    names = {name: name.replace("/prompt/prompt/prompt", "/prompt/prompt") for name in PARAMS}
    return unflatten({names[name]: jnp.asarray(value) for name, value in PARAMS.items()})


def batches():
    keys = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    for step in range(STEPS):
        batch = {key: jnp.asarray(GOLDEN[f"in/{key}"][step], jnp.int32) for key in keys}
        weights = (batch["decoder_target_tokens"] > 0).astype(jnp.float32)
        yield batch | {"decoder_loss_weights": weights}


def prompts_before(start):
    """The reference's prompt before every step."""
    return PARAMS["encoder/prompt/prompt/prompt"], *GOLDEN[f"{start}/prompt"][:-1]


def own_engine(start):
    """(loss summed over target tokens, prompt) of every step, by this library's train step."""
    config = TrainConfig(prompt_length=5, dropout_rate=0.0)
    rules = optim.prompt_rules(0.3, start_step=start)
    trainable, frozen = split_params(first_params(), rules)
    optimizer = optim.make_optimizer(trainable, rules)
    model = FrozenModel(CONFIG, unflatten(frozen))
    step = make_train_step(config, model, optimizer)
    state = optimizer.init(trainable)
    for batch, prompt in zip(batches(), prompts_before(start), strict=True):
        trainable = {PROMPT_NAME: jnp.array(prompt)}
        trainable, state, metrics = step(trainable, state, frozen, batch, None)
        loss = metrics["loss"] * batch["decoder_loss_weights"].sum()
        yield float(loss), np.asarray(trainable[PROMPT_NAME])


def under_t5x(start, num_microbatches):
    """The same by T5X's train step, with what gin_configs/t5x/runs/train.gin binds."""
    from t5x import models, train_state, trainer

    from prompt_tuning_jax.t5x_plugin import optimizer

    model = models.EncoderDecoderModel(
        module=Transformer(CONFIG, functools.partial(Prompt, 5)),
        input_vocabulary=None,
        output_vocabulary=None,
        optimizer_def=optimizer.trained_by(optim.prompt_rules(0.3, start_step=start)),
        z_loss=1e-4,
    )
    batch = next(batches())
    variables = model.get_initial_variables(
        jax.random.key(0),
        {key: value.shape for key, value in batch.items()},
        {key: value.dtype for key, value in batch.items()},
    )
    variables = freeze({**variables, "params": first_params()})
    state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
    step = jax.jit(
        functools.partial(
            trainer.train_with_lr,
            learning_rate=0.0,
            dropout_rng=jax.random.PRNGKey(0),
            model=model,
            num_microbatches=num_microbatches,
        )
    )
    for batch, prompt in zip(batches(), prompts_before(start), strict=True):
        params = flatten(state.params) | {PROMPT_NAME: jnp.asarray(prompt)}
        state, metrics = step(state.replace_params(freeze(unflatten(params))), batch)
        prompt = state.params["encoder"]["prompt"]["prompt"]
        yield float(metrics["loss"].compute()), np.asarray(prompt)


def check(trajectory, start, compare_losses=True):
    losses, prompts = zip(*trajectory, strict=True)
    expected = GOLDEN[f"{start}/prompt"]
    assert np.abs(expected[-1] - expected[0]).max() > 1
    np.testing.assert_allclose(np.stack(prompts), expected, atol=1e-5)
    if compare_losses:
        np.testing.assert_allclose(losses, GOLDEN[f"{start}/loss"], rtol=1e-6)


@pytest.mark.parametrize("start", [slow(STARTS[0]), *STARTS[1:]])
def test_own_engine_follows_the_reference(start):
    check(own_engine(start), start)


@pytest.mark.t5x
@pytest.mark.parametrize("num_microbatches", [None, 2])
@pytest.mark.parametrize("start", STARTS)
def test_t5x_follows_the_reference(start, num_microbatches):
    # T5X averages the losses of microbatches in what it logs, though it sums their gradients.
    check(under_t5x(start, num_microbatches), start, compare_losses=num_microbatches is None)


def test_the_step_that_counting_starts_from_matters():
    """So the two goldens cannot be mistaken for each other."""
    first, second = (GOLDEN[f"{start}/prompt"][-1] for start in STARTS)
    assert np.abs(first - second).max() > 0.1
