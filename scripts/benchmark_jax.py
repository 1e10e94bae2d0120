"""This library's worker for benchmark.py, which starts it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_worker import Repeat, Settings, serve
from make_random_t5 import random_params

from prompt_tuning_jax import optim, sharding
from prompt_tuning_jax.model import FrozenModel, with_prompt
from prompt_tuning_jax.t5 import T5Config
from prompt_tuning_jax.train import TrainConfig, make_train_step, place


def random_batch(settings: Settings) -> dict[str, np.ndarray]:
    """Rows of full length, no padding."""
    rng, rows = np.random.default_rng(0), settings["batch"]
    vocab_size = settings["config"]["vocab_size"]
    targets = rng.integers(2, vocab_size, (rows, settings["targets"]), np.int32)
    return {
        "encoder_input_tokens": rng.integers(2, vocab_size, (rows, settings["inputs"]), np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


def train_step(settings: Settings) -> tuple[Repeat, dict]:
    """The step of `python -m prompt_tuning_jax.train`, prepared as `train` prepares it."""
    config = T5Config(**settings["config"])
    rules = [(optim.PROMPT_NAME, optax.adamw(1e-3))]
    train_config = TrainConfig(trainable=rules, dropout_rate=0.0)
    model = FrozenModel(config, jax.tree.map(jnp.asarray, random_params(config)))
    prompt = np.random.default_rng(1).normal(size=(settings["prompt"], config.emb_dim))
    params = with_prompt(model.params, prompt.astype(np.float32))
    mesh = sharding.make_mesh("data:-1")
    trainable, frozen = place(mesh, model, *optim.split_params(params, rules))
    optimizer = optim.make_optimizer(trainable, rules)
    state = jax.device_put(jax.jit(optimizer.init)(trainable), sharding.replicated(mesh))
    step = make_train_step(train_config, model, optimizer)
    batch = random_batch(settings)

    def repeat(times: int) -> None:
        nonlocal trainable, state
        for _ in range(times):
            on_device = jax.device_put(batch, sharding.batch_sharding(mesh))
            trainable, state, metrics = step(trainable, state, frozen, on_device, np.int32(0))
        if not jax.device_get(metrics)["finite"]:
            raise FloatingPointError("The loss or a gradient is not finite.")
        jax.block_until_ready(trainable)

    repeat(1)
    # `step` differentiates `trainable` alone; its optimizer holds state for nothing else either.
    trained = {name: list(x.shape) for name, x in trainable.items()}
    return repeat, {"versions": {"jax": jax.__version__}, "trained": trained}


if __name__ == "__main__":
    serve({"train_step": train_step})
