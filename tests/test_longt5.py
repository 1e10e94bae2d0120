"""LongT5: transformers' numbers, and local attention against its plain masked form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDENS, assert_same, slow
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax import optim
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.quantize import Quantizer, dequantize
from prompt_tuning_jax.decoding import generation
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.products import SCALE
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.models.t5.longt5 import local_attention, side_blocks
from prompt_tuning_jax.models.t5.scan import stack_layers
from prompt_tuning_jax.prompts import Prompt

ATTENTIONS = {"longt5_local": "local", "longt5_tglobal": "transient_global"}
P = 5
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@functools.cache
def golden(name) -> tuple[T5Config, dict, dict]:
    config, params, _ = huggingface.load(GOLDENS / "families" / name)
    assert config.encoder_attention == ATTENTIONS[name]
    return config, params, dict(np.load(GOLDENS / "families" / name / "io.npz"))


@functools.partial(jit, static_argnums=0)
def encode(network, params, tokens, prompt_positions=None, segment_ids=None):
    return network.apply(
        {"params": params},
        tokens,
        segment_ids,
        False,
        prompt_positions=prompt_positions,
        method="encode",
    )


@functools.partial(jit, static_argnums=0)
def logits(network, params, tokens, decoder_tokens):
    return network.apply(
        {"params": params}, tokens, decoder_tokens, decoder_tokens, enable_dropout=False
    )


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


# ---- transformers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTENTIONS)
def test_agrees_with_transformers(name):
    config, params, io = golden(name)
    network, valid, labelled = Transformer(config), io["attention_mask"] > 0, io["labels"] != -100
    encoded = encode(network, params, io["input_ids"])
    close(encoded[valid], io["encoder_last_hidden_state"][valid], 1e-4)
    found = logits(network, params, io["input_ids"], io["decoder_input_ids"])
    close(found[labelled], io["logits_valid"], 1e-4)
    log_probs = jax.nn.log_softmax(found[labelled])
    loss = -np.take_along_axis(log_probs, io["labels"][labelled][:, None], axis=1).mean()
    close(loss, io["loss"], 5e-6)


@pytest.mark.parametrize("name", [slow("longt5_local"), "longt5_tglobal"])
def test_generates_what_transformers_generates(name):
    config, params, io = golden(name)
    generate = functools.partial(
        generation.generate_tokens,
        Transformer(config),
        jax.tree.map(jnp.asarray, params),
        io["input_ids"],
    )
    expected = io["greedy_ids"][:, 1:]
    np.testing.assert_array_equal(generate(max_length=expected.shape[1])[0], expected)
    expected = io["beam4_ids"][:, :, 1:]
    found, scores = generate(max_length=14, beams=4, length_penalty=1.0, return_all_beams=True)
    # Hugging Face's beams are filled up with EOS where padding is 0.
    expected = np.where(np.cumsum(expected == 1, axis=2) - (expected == 1) > 0, 0, expected)
    np.testing.assert_array_equal(found[:, :, : expected.shape[2]], expected)
    close(scores, io["beam4_scores"], 1e-4)


# ---- the plain form --------------------------------------------------------------------------


def dense(q, k, v, side_kv, distances, side_distances, segments, own, side_segments, radius):
    """The equation without blocks: every pair of positions, most of them masked. [B, H, S, K]"""
    offsets = np.arange(q.shape[2])[None] - np.arange(q.shape[2])[:, None]
    seen = (segments[:, :, None] == segments[:, None]) & (np.abs(offsets) <= radius)[None]
    scores = np.einsum("bhlk,bhsk->bhls", q, k) + distances[:, offsets + q.shape[2]][None]
    scores = np.where(seen[:, None], scores, -np.inf)
    if side_kv is not None:
        k, v = (np.concatenate(pair, axis=2) for pair in ((k, side_kv[0]), (v, side_kv[1])))
        side = np.einsum("bhlk,bhgk->bhlg", q, side_kv[0]) + np.moveaxis(
            side_distances[:, own], 0, 1
        )
        seen_side = (segments[:, :, None] == side_segments[:, None]) & (segments > 0)[:, :, None]
        scores = np.concatenate([scores, np.where(seen_side[:, None], side, -np.inf)], axis=-1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhls,bhsk->bhlk", weights / weights.sum(axis=-1, keepdims=True), v)


EXAMPLES = {  # the lengths of three rows' examples; the rest of a row is padding
    1: ([1], [1], []),
    5: ([5], [3], [2, 3]),
    13: ([13], [9], [4, 2, 6]),
    24: ([24], [17], [11, 5, 8]),
}


def segments_of(length):
    rows = [np.repeat(np.arange(1, len(row) + 1), row) for row in EXAMPLES[length]]
    return np.array([np.pad(row, (0, length - len(row))) for row in rows], np.int32)


attend = jit(local_attention.attend, static_argnames="at_once")


@pytest.mark.parametrize("dtype", ["float32", slow("bfloat16")])
@pytest.mark.parametrize("has_side", [False, True])
@pytest.mark.parametrize(
    ("length", "radius", "at_once"), [(1, 3, 9), (5, 7, 2), (13, 1, 100), (24, 3, 9), (24, 7, 1)]
)
def test_blocks_are_the_plain_masked_form(length, radius, at_once, has_side, dtype):
    rng = np.random.default_rng(length)
    segments, size = segments_of(length), 4
    q, k, v = rng.normal(size=(3, 3, 2, length, 4)).astype(dtype)
    distances = rng.normal(size=(2, 2 * length + 1)).astype(np.float32)
    own, side_segments = (np.array(x) for x in side_blocks.side_blocks(segments, size))
    G = side_segments.shape[1]
    side_kv = tuple(rng.normal(size=(2, 3, 2, G, 4)).astype(dtype)) if has_side else None
    side_distances = rng.normal(size=(2, G, G)).astype(np.float32)
    wide = jax.tree.map(lambda x: x.astype(np.float64), (q, k, v, side_kv))
    expected = dense(*wide, distances, side_distances, segments, own, side_segments, radius)

    block, window = local_attention.window_of(length, radius)
    offsets = np.arange(window) - (window - block) // 2 - np.arange(block)[:, None]
    bias = local_attention.LocalBias(
        segments,
        distances[:, np.clip(offsets + length, 0, 2 * length)][None],
        local_attention.SideBias(side_segments, own, side_distances[None]) if has_side else None,
    )
    found = np.array(attend(q, k, v, side_kv, bias=bias, at_once=at_once))
    assert found.dtype == dtype
    valid = np.broadcast_to(segments[:, None] > 0, q.shape[:3])
    close(found[valid].astype(np.float64), expected[valid], 1e-5 if dtype == "float32" else 0.03)


@pytest.mark.parametrize(
    ("rows", "blocks"),
    [
        slow([[1] * 10], [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]),
        ([[1] * 7 + [0] * 3], [[0] * 7 + [-1] * 3]),
        ([[1] * 3 + [0] * 7], [[-1] * 10]),
        ([[0] * 10], [[-1] * 10]),
        ([[1] * 5 + [2] * 2 + [3] * 4], [[0] * 5 + [-1] * 2 + [1] * 4]),
        slow([[1] * 2], [[-1] * 2]),
    ],
)
def test_what_is_left_over_joins_the_last_whole_block_of_its_example(rows, blocks):
    found, segments = side_blocks.side_blocks(np.array(rows, np.int32), 4)
    np.testing.assert_array_equal(found, blocks)
    for block, segment in enumerate(np.array(segments[0]).tolist()):
        members = {rows[0][i] for i, number in enumerate(blocks[0]) if number == block}
        assert members == ({segment} if segment else set())


# ---- the encoder -----------------------------------------------------------------------------


def as_full(config, params) -> tuple[T5Config, dict]:
    """The same weights in T5's own encoder."""
    flat = flatten_dict(params, sep="/")
    kept = {k: x for k, x in flat.items() if "T5LayerNorm_0" not in k and "side_relpos" not in k}
    return dataclasses.replace(config, encoder_attention="full"), unflatten_dict(kept, sep="/")


@pytest.mark.parametrize("radius", [39, 500])
def test_a_radius_as_long_as_the_row_is_full_attention(radius):
    config, params, io = golden("longt5_local")
    tokens, valid = io["input_ids"], io["attention_mask"] > 0
    full, full_params = as_full(config, params)
    expected = encode(Transformer(full), full_params, tokens)
    wide = Transformer(dataclasses.replace(config, local_radius=radius))
    assert_same(encode(wide, params, tokens)[valid], np.array(expected)[valid])
    near = np.array(encode(Transformer(config), params, tokens))[valid]
    assert np.abs(near - np.array(expected)[valid]).max() > 1e-2


CHUNKS = {"attention_chunk": 4, "remat_policy": "full"}
SCANNED = {"scan_layers": True, "remat_policy": "minimal"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("longt5_tglobal", SCANNED),
        ("longt5_local", CHUNKS),
        ("longt5_local", SCANNED),
        ("longt5_tglobal", CHUNKS),
    ],
)
def test_settings_of_memory_change_no_number(name, change):
    """Neither of a prompt's loss nor of its gradient."""
    config, params, io = golden(name)
    prompt = np.random.default_rng(0).normal(size=(P, config.emb_dim)).astype(np.float32)
    decoder_tokens, targets = io["decoder_input_ids"], np.maximum(io["labels"], 0)

    def loss_of(config, params):
        network = Transformer(config, functools.partial(Prompt, P))

        def loss(prompt):
            promoted = {**params, "encoder": {**params["encoder"], "prompt": {"prompt": prompt}}}
            found = network.apply(
                {"params": promoted}, io["input_ids"], decoder_tokens, targets, enable_dropout=False
            )
            return optim.weighted_loss(found, targets, (targets > 0).astype(np.float32))

        return jit(jax.value_and_grad(loss))(prompt)

    expected = loss_of(config, params)
    if "scan_layers" in change:
        params = stack_layers(params)
    found = loss_of(dataclasses.replace(config, **change), params)
    assert_same(found[0], expected[0])
    assert_same(found[1], expected[1])


@pytest.mark.slow
def test_packed_examples_do_not_know_that_they_are_packed():
    """Windows, summaries and prompts are those of the example alone."""
    rng = np.random.default_rng(0)
    prompt = rng.normal(size=(P, 32)).astype(np.float32)
    examples = [rng.integers(2, 384, (1, n)).astype(np.int32) for n in (9, 3, 14)]
    placed = [place_prompt(tokens, P) for tokens in examples]
    row, positions = (np.concatenate(parts, axis=1) for parts in zip(*placed, strict=True))
    lengths = [tokens.shape[1] for tokens, _ in placed]
    segments = np.repeat(np.arange(1, 4, dtype=np.int32), lengths)[None]
    row, segments = (np.pad(x, ((0, 0), (0, 6))) for x in (row, segments))
    positions = np.pad(positions, ((0, 0), (0, 6)), constant_values=-1)
    for name in ATTENTIONS:
        config, params, _ = golden(name)
        params = {**params, "encoder": {**params["encoder"], "prompt": {"prompt": prompt}}}
        network = Transformer(config, functools.partial(Prompt, P))
        packed = np.split(encode(network, params, row, positions, segments), np.cumsum(lengths), 1)
        for (tokens, own_positions), found in zip(placed, packed[:3], strict=True):
            spare = ((0, 0), (0, 22 - tokens.shape[1]))  # one length, one program
            tokens = np.pad(tokens, spare)
            own_positions = np.pad(own_positions, spare, constant_values=-1)
            alone = encode(network, params, tokens, own_positions)
            assert_same(found, np.array(alone)[:, : found.shape[1]])


@pytest.mark.parametrize("name", ATTENTIONS)
def test_only_summaries_reach_beyond_the_radius_in_one_layer(name):
    """A prompt before a long input, too."""
    config, params, _ = golden(name)
    config = dataclasses.replace(config, num_encoder_layers=1)
    network = Transformer(config, functools.partial(Prompt, P))
    tokens = np.random.default_rng(0).integers(2, 384, (1, 20)).astype(np.int32)

    def states(prompt):
        encoder = {**params["encoder"], "prompt": {"prompt": prompt}}
        return np.array(encode(network, {**params, "encoder": encoder}, tokens))

    moved = np.abs(states(np.ones((P, 32), np.float32)) - states(np.zeros((P, 32), np.float32)))
    moved = moved[0].max(axis=-1) > 1e-6
    if name == "longt5_local":
        np.testing.assert_array_equal(moved, np.arange(25) < P + config.local_radius)
    else:
        assert moved.all()


@pytest.mark.parametrize("scan_layers", [False, slow(True)])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_int8_weights_are_their_values_times_their_scales(name, scan_layers):
    config, params, io = golden(name)
    quantizer, flat = Quantizer(), flatten_dict(params, sep="/")
    quantized = {n: x for name, weight in flat.items() for n, x in quantizer(name, weight).items()}
    assert quantized["encoder/layers_0/attention/key/kernel"].dtype == jnp.int8
    dequantized = {
        n: dequantize(x, quantized.get(n + SCALE))
        for n, x in quantized.items()
        if not n.endswith(SCALE)
    }
    int8, floats = (unflatten_dict(x, sep="/") for x in (quantized, dequantized))
    if scan_layers:
        int8, config = stack_layers(int8), dataclasses.replace(config, scan_layers=True)
        floats = stack_layers(floats)
    found, expected = (encode(Transformer(config), x, io["input_ids"]) for x in (int8, floats))
    valid = io["attention_mask"] > 0
    assert_same(np.array(found)[valid], np.array(expected)[valid])


@pytest.mark.slow
def test_new_weights_have_axes_and_are_sharded_by_them():
    config, params, _ = golden("longt5_tglobal")
    for scan_layers, stack in ((False, ""), (True, "encoder/")):
        config = dataclasses.replace(config, scan_layers=scan_layers)
        flat = flatten_dict(stack_layers(params) if scan_layers else params, sep="/")
        axes = sharding.logical_axes(config)
        assert axes.keys() == flat.keys()
        layers = ("layers",) if scan_layers else ()
        table = axes[f"encoder/{stack}side_relpos_bias/rel_embedding"]
        assert table == ("heads", *layers, "relpos_buckets")
        norm = stack or "layers_0/"
        assert axes[f"encoder/{norm}attention/T5LayerNorm_0/scale"] == ("embed", *layers)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["data:2", "model:2"])
def test_numbers_on_a_mesh_are_those_of_one_device(spec):
    config, params, io = golden("longt5_tglobal")
    mesh, network = sharding.make_mesh(spec), Transformer(config)
    flat = flatten_dict(params, sep="/")
    placed = sharding.put(flat, sharding.param_shardings(mesh, config, flat))
    tokens = sharding.put(io["input_ids"], sharding.batch_sharding(mesh))
    with sharding.active(mesh):
        found = encode(network, unflatten_dict(placed, sep="/"), tokens)
    valid = io["attention_mask"] > 0
    assert_same(np.array(found)[valid], np.array(encode(network, params, io["input_ids"]))[valid])


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTIONS)
def test_memory_grows_with_the_length_and_not_with_its_square(name):
    """Of the scores; side keys are a sixteenth of the positions."""
    config, params, _ = golden(name)
    config = dataclasses.replace(config, local_radius=15, global_block_size=64, attention_chunk=64)

    def memory(length):
        def total(params):
            tokens = jnp.ones((1, length), jnp.int32)
            network = Transformer(config)
            return network.apply(
                {"params": params}, tokens, enable_dropout=False, method="encode"
            ).sum()

        compiled = jit(jax.grad(total)).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(4096) < 2.6 * memory(2048)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTIONS)
def test_dropout_follows_its_key(name):
    config, params, io = golden(name)
    network = Transformer(dataclasses.replace(config, dropout_rate=0.3))

    @jit
    def states(key):
        return network.apply(
            {"params": params}, io["input_ids"], method="encode", rngs={"dropout": key}
        )

    first, again, other = map(states, map(jax.random.key, (0, 0, 1)))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention": "global"}, "'full', 'local', 'transient_global'.*'global'"),
        ({"local_radius": 0}, "local_radius must be 1 or more"),
        ({"global_block_size": 0}, "global_block_size must be 1 or more"),
        ({"prompt_visibility": "isolated"}, "prompt_visibility=isolated is not for LongT5"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(golden("longt5_local")[0], **changes)
