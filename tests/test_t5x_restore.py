"""T5X itself restores what this library writes, and this library reads what T5X writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import t5x_goldens
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax import T5Config, Transformer, TunedPrompt
from prompt_tuning_jax.checkpoints import t5x as ours
from prompt_tuning_jax.checkpoints.t5x.checkpoint import open_checkpoint
from prompt_tuning_jax.prompts import Prompt

pytestmark = pytest.mark.t5x

SHAPE = {
    "vocab_size": 128,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "mlp_activations": ("gelu", "linear"),
    "dropout_rate": 0.0,
}
PROMPT = np.arange(48, dtype=np.float32).reshape(3, 16)
# (form, whether T5X runs with use_orbax); T5X's old reader knows only its old form.
READERS = [("orbax", True), ("legacy", True), ("legacy", False)]
NO_OPTIMIZER = ((r"^state/param_states/.*", None),)
NO_PROMPT = ((r"^.*prompt.*$", None),)


@pytest.fixture(autouse=True)
def t5x_rank_promotion():
    """T5X's own networks broadcast silently, which the other tests forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


def network(kind: str):
    """T5X's own T5, its scanned T5, or this library's with a prompt."""
    if kind == "prompted":
        return Transformer(T5Config(**SHAPE), functools.partial(Prompt, 3))
    if kind == "scanned":
        from t5x.examples.scalable_t5 import network as theirs
    else:
        from t5x.examples.t5 import network as theirs
    return theirs.Transformer(theirs.T5Config(**SHAPE))


@functools.cache
def initializer(kind: str, training: bool):
    """(T5X's TrainStateInitializer, its partitioner)."""
    import seqio
    from t5x import adafactor, models, partitioning, utils

    vocabulary = seqio.PassThroughVocabulary(size=SHAPE["vocab_size"])
    rules = {**adafactor.standard_logical_factor_rules(), "prompt": adafactor.FactorDim.NONE}
    optimizer = adafactor.Adafactor(1e-3, logical_factor_rules=rules)
    model = models.EncoderDecoderModel(network(kind), vocabulary, vocabulary, optimizer)
    shapes = {"encoder_input_tokens": (2, 8), "decoder_input_tokens": (2, 4)}
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    made = utils.TrainStateInitializer(
        optimizer if training else None,
        model.get_initial_variables,
        shapes,
        partitioner,
        dict.fromkeys(shapes, jnp.int32),
    )
    return made, partitioner


def restore(path, kind="t5", use_orbax=True, training=False, dtype=None, scratch=None):
    """(weights, step) as T5X restores them; what `scratch` matches is initialised."""
    from t5x import utils

    states, partitioner = initializer(kind, training)
    settings = utils.RestoreCheckpointConfig(
        path=str(path),
        mode="specific",
        dtype=dtype,
        assignment_map=scratch,
        fallback_to_scratch=scratch is not None,
    )
    state, _ = utils.create_checkpoint_manager_and_restore(
        states, partitioner, settings, str(path), jax.random.PRNGKey(0), use_orbax=use_orbax
    )
    return flatten_dict(dict(state.params.unfreeze()), sep="/"), int(state.step)


@pytest.mark.parametrize(("form", "use_orbax"), READERS)
class TestRestored:
    @pytest.fixture
    def path(self, tmp_path, form):
        return ours.save(tmp_path, unflatten_dict(t5x_goldens.weights(), sep="/"), 7, form)

    def test_for_inference(self, path, use_orbax):
        params, step = restore(path, use_orbax=use_orbax)
        t5x_goldens.assert_same(params, t5x_goldens.weights())
        assert step == 7

    def test_for_training(self, path, use_orbax):
        params, step = restore(path, use_orbax=use_orbax, training=True, scratch=NO_OPTIMIZER)
        t5x_goldens.assert_same(params, t5x_goldens.weights())
        assert step == 7

    def test_as_the_base_of_a_prompt(self, path, use_orbax):
        params, _ = restore(path, "prompted", use_orbax, scratch=NO_PROMPT)
        assert params.pop("encoder/prompt/prompt").shape == (3, 16)
        t5x_goldens.assert_same(params, t5x_goldens.weights())

    def test_bfloat16(self, tmp_path, form, use_orbax):
        weights = t5x_goldens.weights("legacy_bfloat16")
        path = ours.save(tmp_path, weights, 7, form)
        params, _ = restore(path, use_orbax=use_orbax, dtype="bfloat16")
        t5x_goldens.assert_same(params, weights)

    def test_scanned(self, tmp_path, form, use_orbax):
        source = t5x_goldens.unpack("scanned_legacy", tmp_path)
        leaves = {name: leaf.read() for name, leaf in open_checkpoint(source).leaves().items()}
        params, _ = restore(ours.save(tmp_path, leaves, 7, form), "scanned", use_orbax)
        t5x_goldens.assert_same(params, leaves)


@pytest.mark.parametrize(("form", "use_orbax"), READERS)
@pytest.mark.parametrize("base", ["legacy", "orbax"])
def test_base_and_prompt(tmp_path, base, form, use_orbax):
    source = t5x_goldens.unpack(base, tmp_path)
    path = ours.add_prompt(source, TunedPrompt(PROMPT), tmp_path, step=12, form=form)
    params, step = restore(path, "prompted", use_orbax)
    assert step == 12
    t5x_goldens.assert_same(params, t5x_goldens.weights() | {"encoder/prompt/prompt": PROMPT})


@pytest.mark.parametrize("form", ["orbax", "legacy"])
@pytest.mark.parametrize("kind", ["t5", "scanned", "prompted"])
def test_reads_what_t5x_writes(tmp_path, kind, form):
    from t5x import checkpoints

    states, partitioner = initializer(kind, True)
    state = states.from_scratch(jax.random.PRNGKey(1)).replace_step(jnp.array(5, jnp.int32))
    if form == "orbax":
        manager = checkpoints.OrbaxCheckpointManagerInterface(str(tmp_path), state, partitioner)
        manager.save(state)
        manager.close()
    else:
        checkpoints.Checkpointer(state, partitioner, str(tmp_path)).save(state)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.kind, checkpoint.step) == (form, 5)
    expected = flatten_dict(state.state_dict(), sep="/")
    leaves = checkpoint.leaves("")
    assert set(leaves) == {name for name, value in expected.items() if value is not None}
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf.read(), expected[name], name)
