"""The mesh and the partition table, on two simulated devices, and a run's step on up to eight."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import xla_flags
from common import HANG

from prompt_tuning_jax import load_model, optim
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.params import PROMPT_NAME, flatten, split_params
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.rules import start_optimizer
from prompt_tuning_jax.training.set_up import place
from prompt_tuning_jax.training.train_step import make_train_step

TIED = {"logits_via_embedding": True, "mlp_activations": ("relu",)}
BATCH = {
    "encoder_input_tokens": jnp.array([[5, 6, 7, 1], [8, 9, 1, 0]]),
    "decoder_input_tokens": jnp.array([[0, 5], [0, 6]]),
}
QUERY, EMBEDDING = "encoder/layers_0/attention/query/kernel", "token_embedder/embedding"


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("data:-1", (2, 1, 1)),
        ("data:2", (2, 1, 1)),
        ("model:2", (1, 1, 2)),
        ("fsdp:2", (1, 2, 1)),
        ("data:1,model:2", (1, 1, 2)),
        ("model:2, data:-1", (1, 1, 2)),
        ("data:-1,model:1", (2, 1, 1)),
        ("model:1,fsdp:-1,data:1", (1, 2, 1)),
    ],
)
def test_mesh_sizes(spec, sizes):
    mesh = sharding.make_mesh(spec)
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "model"), sizes, strict=True))
    assert sharding.batch_parts(mesh) == sizes[0] * sizes[1]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rows:2", "'rows:2'.*data, fsdp, model"),
        ("data", "AXIS:SIZE"),
        ("data:two", "AXIS:SIZE"),
        ("", "AXIS:SIZE"),
        ("data:0,model:-1", "AXIS:SIZE"),
        ("data:-2", "AXIS:SIZE"),
        ("data:4", "4 devices.*2"),
        ("data:-1,model:3", "3 devices.*2"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        sharding.make_mesh(spec)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "chip"

    @property
    def process_index(self):
        return self.id // 2


@pytest.mark.parametrize(
    ("spec", "between"),
    [
        ("data:2,model:4", (2, 1, 1)),
        ("data:-1", (2, 1, 1)),
        ("data:4,fsdp:2", (2, 1, 1)),
        ("fsdp:4,model:2", (1, 2, 1)),
        ("model:8", (1, 1, 2)),
    ],
)
def test_slices_are_joined_by_the_first_axes(spec, between):
    """All neighbours on the other axes are in one slice."""
    mesh = sharding.make_mesh(spec, [Chip(i, i // 4) for i in range(8)])
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    for axis, parts in enumerate(between):
        changes = np.diff(slices, axis=axis)
        assert (np.count_nonzero(changes) > 0) == (parts > 1)
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(8))


def test_slices_that_no_axis_can_join_are_named():
    chips = [Chip(i, i // 2) for i in range(12)]  # six slices
    assert sharding.make_mesh("data:6,model:2", chips).shape["data"] == 6
    with pytest.raises(ValueError, match="1 x 1 x 12"):
        sharding.make_mesh("model:12", [Chip(i, i % 5) for i in range(12)])


@pytest.mark.parametrize("changes", [{}, TIED], ids=["t5_1_1", "t5_1_0"])
def test_every_axis_of_every_parameter_has_a_rule(vocabulary, changes):
    config = tiny.make_config(vocabulary, **changes)
    axes = sharding.logical_axes(config)
    params = flatten(tiny.make_params(config))
    assert set(axes) == set(params)
    assert all(len(axes[name]) == params[name].ndim for name in params)
    assert {axis for names in axes.values() for axis in names} <= set(sharding.AXIS_RULES)


def parts(model, spec):
    """Name -> the shape of one device's part, of the weights and a prompt."""
    flat = {**flatten(model.params), PROMPT_NAME: jnp.zeros((4, 16))}
    shardings = sharding.param_shardings(sharding.make_mesh(spec), model.config, flat)
    found = {name: shardings[name].shard_shape(x.shape) for name, x in flat.items()}
    return found, {name for name, x in flat.items() if found[name] == x.shape}


def test_weights_are_split_and_the_prompt_is_not(model):
    found, whole = parts(model, "model:2")
    assert found[QUERY] == (16, 8)
    assert found["decoder/layers_0/mlp/wo/kernel"] == (16, 16)
    assert found[EMBEDDING] == (model.config.vocab_size // 2, 16)
    assert PROMPT_NAME in whole
    assert all(name.endswith("scale") for name in whole - {PROMPT_NAME})


def test_fully_sharded_every_weight_is_split_over_its_width(model):
    found, whole = parts(model, "fsdp:2")
    assert found[QUERY] == (8, 16)
    assert found["decoder/layers_0/mlp/wo/kernel"] == (32, 8)
    assert found[EMBEDDING] == (model.config.vocab_size, 8)
    biases = {f"{stack}/relpos_bias/rel_embedding" for stack in ("encoder", "decoder")}
    assert whole == {PROMPT_NAME, *biases}


def test_an_axis_that_does_not_divide_is_not_split():
    config = T5Config(
        vocab_size=33, emb_dim=8, num_heads=1, head_dim=8, mlp_dim=8,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    flat = flatten(tiny.make_params(config))
    shardings = sharding.param_shardings(sharding.make_mesh("model:2"), config, flat)
    assert shardings[EMBEDDING].is_fully_replicated
    assert shardings["encoder/relpos_bias/rel_embedding"].is_fully_replicated
    assert not shardings["encoder/layers_0/mlp/wo/kernel"].is_fully_replicated


def test_optimizer_state_goes_with_its_parameter(model):
    mesh = sharding.make_mesh("fsdp:2")
    flat = {**flatten(model.params), PROMPT_NAME: jnp.zeros((4, 16))}
    state = jax.eval_shape(optim.make_optimizer(flat, [(".*", optim.adam(1e-3))]).init, flat)
    places = sharding.param_shardings(mesh, model.config, state)
    expected = sharding.param_shardings(mesh, model.config, flat)
    moments = [
        (path[-1].key, place)
        for path, place in jax.tree_util.tree_leaves_with_path(places)
        if hasattr(path[-1], "key")
    ]
    assert len(moments) == 2 * len(flat)
    assert all(place == expected[name] for name, place in moments)


@pytest.mark.parametrize("spec", ["data:2", "fsdp:2", "model:2"])
def test_logits_do_not_depend_on_the_mesh(model, model_dir, spec):
    split = load_model(model_dir, mesh=sharding.make_mesh(spec))
    batch = sharding.put(BATCH, sharding.batch_sharding(split.mesh))
    np.testing.assert_allclose(split.logits(**batch), model.logits(**BATCH), rtol=0, atol=1e-5)
    assert split.fingerprint == model.fingerprint


@pytest.mark.parametrize("spec", ["data:2", "fsdp:2"])
def test_any_batch_size_goes_over_any_mesh(model, spec):
    texts = ["the soup was good", "we had tea and it was very cold", "the pie was sweet"]
    split = model.replace(mesh=sharding.make_mesh(spec))
    expected = model.classify(texts, tiny.LABELS, batch_size=3)
    found = split.classify(texts, tiny.LABELS, batch_size=3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", ["fsdp:2", "model:2"])
def test_hugging_face_weights_are_read_into_their_shards(model, model_dir, spec):
    split = load_model(model_dir, mesh=sharding.make_mesh(spec))
    found = flatten(split.params)
    expected = sharding.param_shardings(split.mesh, split.config, found)
    for name, weight in flatten(model.params).items():
        assert found[name].sharding == expected[name]
        np.testing.assert_array_equal(found[name], weight)


# Runs itself as a program: how many devices a process has is fixed when JAX starts.

MESHES = ["data:2", "fsdp:2", "model:2", "fsdp:2,model:2", "data:2,fsdp:2,model:2"]
SLOW = ["data:2,model:2", "data:2,fsdp:2", "data:8", "fsdp:8", "data:2,model:4"]


def step_on(spec: str, directory: str) -> dict:
    """Loss and gradient of three prompts on a mesh, where arrays are, and what is communicated."""
    settings = TrainConfig(batch_size=8, prompt_length=5, dropout_rate=0.1)
    count = math.prod(int(size) for size in re.findall(r"\d+", spec))
    mesh = sharding.make_mesh(spec, jax.devices()[:count])
    model = load_model(directory, mesh=mesh)
    rules = [(PROMPT_NAME, optax.trace(0.0))]  # its state is the gradient
    prompts = np.asarray(jax.random.uniform(jax.random.key(1), (3, 5, model.config.emb_dim)))
    parts = split_params(model.prompted(prompts[0]).params, rules)
    trainable, frozen = place(mesh, model, *parts)
    optimizer = optim.make_optimizer(trainable, rules)
    state = start_optimizer(mesh, model, optimizer, trainable)
    step = make_train_step(settings, model, optimizer)
    encoder = np.arange(8 * 6).reshape(8, 6) % 40 + 3
    decoder = np.arange(8 * 3).reshape(8, 3) % 30 + 3
    batch = {
        "encoder_input_tokens": encoder,
        "decoder_input_tokens": np.pad(decoder, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": decoder,
        "decoder_loss_weights": np.ones(decoder.shape, np.float32),
    }
    batch = sharding.put(batch, sharding.batch_sharding(mesh))
    key = jax.random.key(0)
    compiled = step.lower(trainable, state, frozen, batch, key).compile()
    losses, gradients = [], []
    for number, prompt in enumerate(prompts):
        trainable, _ = place(mesh, model, {PROMPT_NAME: prompt}, {})
        key = jax.random.fold_in(jax.random.key(0), number)
        trainable, state, metrics = compiled(trainable, state, frozen, batch, key)
        losses.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
        (gradient,) = jax.tree.leaves(state)
        gradients.append(np.asarray(gradient).tolist())
    weights = sum(x.nbytes for x in frozen.values())
    here = sum(x.addressable_shards[0].data.nbytes for x in frozen.values())
    return {
        "losses": losses,
        "gradients": gradients,
        "prompt_is_whole": trainable[PROMPT_NAME].is_fully_replicated,
        "share_of_weights": here / weights,
        "gathered": gathered_shapes(compiled.as_text()),
        "weights": [list(x.shape) for x in frozen.values() if x.ndim == 2],
    }


def gathered_shapes(program: str) -> list[list[int]]:
    """The shapes of what the compiled program gathers."""
    found = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", program)
    return [[int(size) for size in shape.split(",") if size] for shape in found]


def run_on(directory, meshes: list[str]) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, str(directory), *meshes],
        env=os.environ | {"XLA_FLAGS": xla_flags.devices(8), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=HANG,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def measured(model_dir):
    """Mesh -> what `step_on` found on it."""
    return run_on(model_dir, ["data:1", *MESHES])


def check_same_training(found: dict, alone: dict) -> None:
    """Equal prompts have equal losses and gradients: no step's rounding reaches the next.

    Rounding is 5e-6 of the largest entry; a sum over devices that is left out is the most of it.
    """
    np.testing.assert_allclose(found["losses"], alone["losses"], rtol=2e-5)
    near = 1e-4 * np.abs(alone["gradients"]).max()
    np.testing.assert_allclose(found["gradients"], alone["gradients"], rtol=0, atol=near)
    assert found["prompt_is_whole"]


@pytest.mark.parametrize("spec", MESHES)
def test_training_does_not_depend_on_the_mesh(measured, spec):
    check_same_training(measured[spec], measured["data:1"])


@pytest.mark.slow
def test_training_does_not_depend_on_more_meshes(model_dir, measured):
    for found in run_on(model_dir, SLOW).values():
        check_same_training(found, measured["data:1"])


@pytest.mark.parametrize("spec", MESHES)
def test_each_device_holds_its_part_of_the_weights(measured, spec):
    sizes = dict(part.split(":") for part in spec.split(","))
    split = int(sizes.get("fsdp", 1)) * int(sizes.get("model", 1))
    assert 1 / split <= measured[spec]["share_of_weights"] < 1 / split + 0.02


@pytest.mark.parametrize("spec", ["data:2", "model:2"])
def test_no_weight_is_gathered_unless_fully_sharded(measured, spec):
    found = measured[spec]
    assert not [shape for shape in found["gathered"] if shape in found["weights"]]


def test_fully_sharded_weights_are_gathered_one_by_one(measured):
    found = measured["fsdp:2"]
    assert [16, 16] in found["gathered"]
    assert [32, 16] in found["gathered"]


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    print(json.dumps({spec: step_on(spec, sys.argv[1]) for spec in sys.argv[2:]}))
