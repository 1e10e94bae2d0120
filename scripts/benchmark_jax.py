"""This library's worker for benchmark.py and benchmark_gpu.py, which start it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmark_worker import Repeat, Settings, resident_peak, serve
from jax.sharding import Mesh
from make_random_t5 import spread

from prompt_tuning_jax import TunedPrompt
from prompt_tuning_jax.checkpoints.huggingface.causal import parse_config
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.family import NetworkConfig, family_of
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.params import PROMPT_NAME, flatten, split_params, unflatten, with_prompt
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training import fitting, rules
from prompt_tuning_jax.training.train_step import make_train_step
from prompt_tuning_jax.training.trainers import make_stacked_step, start_stack, take_rows

RUNS = 8  # prompts of `many`
DECODED = 8  # tokens of `decode`


def random_tokens(settings: Settings, name: str, seed: int = 0) -> np.ndarray:
    """Rows of full length, no padding."""
    shape, high = (settings["batch"], settings[name]), settings["config"]["vocab_size"]
    return np.random.default_rng([seed, settings[name]]).integers(2, high, shape, np.int32)


def random_batch(settings: Settings, seed: int = 0) -> dict[str, np.ndarray]:
    targets = random_tokens(settings, "targets", seed)
    return {
        "encoder_input_tokens": random_tokens(settings, "inputs", seed),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


def random_model(settings: Settings) -> FrozenModel:
    """Weights in the dtype of the activations, drawn where they are used."""
    config, spread = config_and_spread(settings["config"])
    variables = family_of(config).abstract_variables(config, None)
    shapes = flatten(variables["params"])
    keys = jax.random.split(jax.random.key(0, impl="rbg"), len(shapes))
    flat = {}
    for key, (name, x) in zip(keys, shapes.items(), strict=True):
        if name.endswith("scale"):
            flat[name] = jnp.ones(x.shape, config.dtype)
        else:
            flat[name] = draw(key, spread(name, x.shape), x.shape, config.dtype)
    return FrozenModel(config, unflatten(flat))


def config_and_spread(fields: Settings) -> tuple[NetworkConfig, Callable[..., float]]:
    """The config, and (name, shape) of a weight -> its standard deviation."""
    if "model_type" not in fields:
        config = T5Config(**fields)
        return config, functools.partial(spread, config)
    config = parse_config(fields, "the benchmark's shape", jnp.dtype(fields["dtype"]))
    return config, lambda name, shape: shape[-1 if name.endswith("embedding") else 0] ** -0.5


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw(key: jax.Array, deviation: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return deviation * jax.random.normal(key, shape, dtype)


def random_prompt(settings: Settings, seed: int = 1) -> np.ndarray:
    shape = settings["prompt"], config_and_spread(settings["config"])[0].emb_dim
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def facts(trainable: Any) -> dict[str, Any]:
    """What is recorded; `trainable` is all that a step differentiates and keeps a state for."""
    trained = {name: list(x.shape) for name, x in trainable.items()}
    return {
        "versions": {"jax": jax.__version__},
        "device": jax.local_devices()[0].device_kind,
        "trained": trained,
    }


def train_step(settings: Settings) -> tuple[Repeat, dict]:
    """The step of `prompt-tuning train`, prepared as `train` prepares it."""
    adam = [(PROMPT_NAME, optax.adamw(1e-3))]
    model, mesh = random_model(settings), sharding.make_mesh("data:-1")
    config = run_config(settings, model, mesh, trainable=adam, dropout_rate=settings["dropout"])
    state, frozen, step = start(config, model, mesh, random_prompt(settings))
    batch, key = random_batch(settings), jax.random.key(0)

    def repeat(times: int) -> None:
        nonlocal state
        for number in range(times):
            on_device = jax.device_put(batch, sharding.batch_sharding(mesh))
            *state, metrics = step(*state, frozen, on_device, jax.random.fold_in(key, number))
        check(metrics, state)

    repeat(1)
    return repeat, facts(state[0]) | form_of(config)


def many(settings: Settings) -> tuple[Repeat, dict]:
    """A step of each of eight prompts, with the paper's optimizer: in one, or one after another."""
    model, mesh = random_model(settings), sharding.make_mesh("data:-1")
    copies = RUNS if settings["together"] else None
    config = run_config(settings, model, mesh, copies, dropout_rate=0.0)
    batches = [random_batch(settings, seed) for seed in range(RUNS)]
    prompts = [random_prompt(settings, seed) for seed in range(RUNS)]
    make = together if settings["together"] else in_turn
    repeat, trained = make(config, model, mesh, prompts, batches)
    repeat(1)
    return repeat, facts(trained) | form_of(config)


def together(config, model, mesh, prompts, batches) -> tuple[Repeat, Any]:
    each, frozen = zip(*[parts_of(config, model, mesh, prompt) for prompt in prompts], strict=True)
    stack = take_rows(start_stack(config, each), np.arange(RUNS), mesh)
    batch = {name: np.stack([one[name] for one in batches]) for name in batches[0]}
    keys = jax.random.split(jax.random.key(0), RUNS)
    paces = rules.Pace(jnp.full(RUNS, 0.3), jnp.full(RUNS, 1e6))
    step = make_stacked_step(config, model)

    def repeat(times: int) -> None:
        nonlocal stack
        for number in range(times):
            stack, metrics, _ = step(stack, frozen[0], jax.device_put(batch), keys, paces, number)
        check(metrics, stack)

    return repeat, each[0]


def in_turn(config, model, mesh, prompts, batches) -> tuple[Repeat, Any]:
    each = [start(config, model, mesh, prompt) for prompt in prompts]
    (states, frozen, _), step = zip(*each, strict=True), each[0][2]
    states, key = list(states), jax.random.key(0)

    def repeat(times: int) -> None:
        for _ in range(times):
            for i, batch in enumerate(batches):
                on_device = jax.device_put(batch)
                *states[i], metrics = step(*states[i], frozen[0], on_device, key)
        check(metrics, states)

    return repeat, states[0][0]


def decode(settings: Settings) -> tuple[Repeat, dict]:
    """Greedy decoding with a prompt; end-of-text is never the likeliest, so no row ends early."""
    visibility = settings.get("visibility", "full")
    model = random_model(settings)
    prompt = TunedPrompt(random_prompt(settings), visibility=visibility)
    params = without_eos(model.params, model.config.eos_id)
    model = model.replace(params=params)
    tokens = random_tokens(settings, "inputs")

    def repeat(times: int) -> None:
        for _ in range(times):
            found, _ = model.generate_tokens(tokens, prompt, max_length=DECODED)
            if np.asarray(found).all(axis=-1).sum() != len(tokens):
                raise ValueError("A row ended early: the work is not what it should be.")

    repeat(1)
    return repeat, facts({})


def without_eos(params: Any, eos_id: int) -> Any:
    """The weights with a logit for end-of-text, and for padding (id 0), of 0."""
    never, decoder = np.array([0, eos_id]), params["decoder"]
    if "logits_dense" in decoder:
        kernel = decoder["logits_dense"]["kernel"].at[:, never].set(0.0)
        return {**params, "decoder": {**decoder, "logits_dense": {"kernel": kernel}}}
    table = params["token_embedder"]["embedding"].at[never].set(0.0)
    return {**params, "token_embedder": {"embedding": table}}


def run_config(
    settings: Settings, model: FrozenModel, mesh: Mesh, copies: int | None = None, **others: Any
) -> TrainConfig:
    """A run's settings, in the form that `train` finds to be the fastest that fits."""
    config = TrainConfig(
        feature_lengths={name: settings[name] for name in ("inputs", "targets")},
        batch_size=settings["batch"],
        prompt_length=settings["prompt"],
        prompt_visibility=settings.get("visibility", "full"),
        microbatches=settings.get("microbatches"),
        **others,
    )
    return dataclasses.replace(config, **fitting.fit(config, model, mesh, copies).settings)


def form_of(config: TrainConfig) -> dict[str, Any]:
    return {"remat_policy": config.remat_policy, "microbatches": config.microbatches}


def parts_of(config: TrainConfig, model: FrozenModel, mesh: Mesh, prompt: np.ndarray) -> Any:
    """What trains, and the frozen weights."""
    params = with_prompt(model.params, jnp.array(prompt))
    parts = split_params(params, rules.trainable_rules(config))
    return tuple(sharding.put(x, sharding.replicated(mesh)) for x in parts)


def start(
    config: TrainConfig, model: FrozenModel, mesh: Mesh, prompt: np.ndarray
) -> tuple[list[Any], Any, Callable[..., Any]]:
    """[what trains, its optimizer's state], the frozen weights, and the step."""
    trainable, frozen = parts_of(config, model, mesh, prompt)
    optimizer = rules.make_optimizer(config, trainable)
    state = rules.start_optimizer(mesh, model, optimizer, trainable)
    return [trainable, state], frozen, make_train_step(config, model, optimizer)


def check(metrics: Any, state: Any) -> None:
    """Waits for the work, whose result must be finite."""
    if not np.all(jax.device_get(metrics)["finite"]):
        raise FloatingPointError("The loss or a gradient is not finite.")
    jax.block_until_ready(state)


def device_peak() -> int:
    """The most bytes of the device's memory; of the process, where they are the same (a CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resident_peak()


if __name__ == "__main__":
    serve({"train_step": train_step, "many": many, "decode": decode}, device_peak)
