"""The network against T5X's and the reference's numbers, and the laws that no golden covers."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDEN_CONFIG as CONFIG
from common import assert_same, float64, slow, widened
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.layout import LAYOUTS, place_prompt
from prompt_tuning_jax.models.attention.bias import toeplitz
from prompt_tuning_jax.models.t5 import T5Config, Transformer
from prompt_tuning_jax.models.t5.attention_bias import relative_buckets
from prompt_tuning_jax.prompts import Prompt, PromptBank

GOLDENS = Path(__file__).parent / "goldens" / "t5x"
P = 5
PLAIN = Transformer(CONFIG)
PROMPTED = Transformer(CONFIG, functools.partial(Prompt, P))
BANKED = Transformer(CONFIG, functools.partial(PromptBank, 3, P))


def golden(name: str) -> tuple[dict, dict]:
    """(parameters, inputs and outputs) of one of the reference's networks."""
    flat = dict(np.load(GOLDENS / f"{name}_params.npz"))
    if "encoder/prompt/prompt/prompt" in flat:  # the reference wraps its prompt module once more
        flat["encoder/prompt/prompt"] = flat.pop("encoder/prompt/prompt/prompt")
    return unflatten_dict(flat, sep="/"), dict(np.load(GOLDENS / f"{name}_io.npz"))


PARAMS, IO = golden("t5_network")
PROMPTED_PARAMS, PROMPTED_IO = golden("prompt_encdec")
TOKENS, DECODER_INPUTS, TARGETS = (
    IO[f"in/{name}"]
    for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
)
BATCH = (TOKENS, DECODER_INPUTS, TARGETS)
VALID = TARGETS > 0


def with_prompt(prompt) -> dict:
    return {**PARAMS, "encoder": {**PARAMS["encoder"], "prompt": {"prompt": prompt}}}


# Compiling is most of this file's time; code for a few numbers need not be fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
STATIC = ("network", "method", "enable_dropout", "decode", "mutable")


def apply(network, variables, *args, enable_dropout=False, **kwargs):
    return network.apply(variables, *args, enable_dropout=enable_dropout, **kwargs)


compiled_apply = jit(apply, static_argnames=STATIC)


def run(network, params, *args, **kwargs):
    return compiled_apply(network, {"params": params}, *args, **kwargs)


def loss(network, params, io):
    """T5X's: cross-entropy plus 1e-4 z-loss, summed over the targets."""
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    logits = apply(network, {"params": params}, *(io[f"in/{name}"] for name in names))
    log_z = jax.nn.logsumexp(logits, axis=-1)
    targets = io["in/decoder_target_tokens"][..., None]
    nll = log_z - jnp.take_along_axis(logits, targets, axis=-1)[..., 0] + 1e-4 * log_z**2
    return jnp.sum(nll * io["in/decoder_loss_weights"].astype(jnp.float32))


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


# ---- the originals ---------------------------------------------------------------------------


def test_agrees_with_t5x():
    encoded = run(PLAIN, PARAMS, TOKENS, method="encode")
    close(encoded[TOKENS > 0], IO["encoded"][TOKENS > 0])
    close(run(PLAIN, PARAMS, *BATCH)[VALID], IO["logits"][VALID])


def test_every_gradient_agrees_with_t5x():
    with float64():
        config, params = widened(PLAIN.config, PARAMS)
        network = Transformer(config)
        value, gradients = jit(jax.value_and_grad(lambda params: loss(network, params, IO)))(params)
    np.testing.assert_allclose(value, IO["loss"], rtol=1e-6)
    gradients = flatten_dict(gradients, sep="/")
    assert len(gradients) == 52
    for name, gradient in gradients.items():
        expected = IO[f"grad/{name}"]
        close(gradient, expected, 2e-6 * max(1.0, np.abs(expected).max()))


def test_agrees_with_the_reference_prompt():
    encoded = run(PROMPTED, PROMPTED_PARAMS, TOKENS, method="encode")
    assert encoded.shape == (3, 12 + P, 16)
    valid = PROMPTED_IO["mask/with_fake_prompt"] > 0
    close(encoded[valid], PROMPTED_IO["encoded"][valid])
    close(run(PROMPTED, PROMPTED_PARAMS, *BATCH)[VALID], PROMPTED_IO["logits"][VALID])


def test_prompt_gradient_agrees_with_the_reference():
    with float64():
        config, params = widened(PROMPTED.config, PROMPTED_PARAMS)
        network = Transformer(config, functools.partial(Prompt, P))

        def loss_of(prompt):
            encoder = {**params["encoder"], "prompt": {"prompt": prompt}}
            return loss(network, {**params, "encoder": encoder}, PROMPTED_IO)

        start = params["encoder"]["prompt"]["prompt"]
        value, gradient = jit(jax.value_and_grad(loss_of))(start)
    np.testing.assert_allclose(value, PROMPTED_IO["loss"], rtol=1e-6)
    # 1e-6 of the largest entry; the golden's own rounding is 0.78e-6.
    expected = PROMPTED_IO["grad_prompt"]
    close(gradient, expected, 1e-6 * np.abs(expected).max())


def test_parameter_tree_and_logical_axes_are_t5x(key):
    variables = jit(PROMPTED.init)(key, *BATCH)
    params = flatten_dict(variables["params"], sep="/")
    axes = flatten_dict(variables["params_axes"], sep="/")
    expected = json.loads((GOLDENS / "t5_network_params.json").read_text())
    expected["encoder/prompt/prompt"] = {"shape": [P, 16], "logical_axes": ["prompt", "embed"]}
    assert params.keys() == expected.keys()
    assert axes.keys() == {f"{name}_axes" for name in expected}
    for name, facts in expected.items():
        assert list(params[name].shape) == facts["shape"]
        assert params[name].dtype == jnp.float32
        assert list(axes[f"{name}_axes"].names) == facts["logical_axes"]


@pytest.mark.slow
def test_initial_weights_have_t5x_scales(key):
    config = T5Config(512, 64, 4, 16, 256, 1, 1)
    params = flatten_dict(jit(Transformer(config).init)(key, *BATCH)["params"], sep="/")
    fan_in = 64**-0.5
    layer = "encoder/layers_0"
    for name, scale in {
        "token_embedder/embedding": 1.0,
        f"{layer}/attention/query/kernel": fan_in / 4,  # / sqrt(head_dim)
        f"{layer}/attention/key/kernel": fan_in,
        f"{layer}/attention/value/kernel": fan_in,
        f"{layer}/mlp/wi_0/kernel": fan_in,
        f"{layer}/mlp/wo/kernel": 256**-0.5,
        "decoder/logits_dense/kernel": fan_in,
    }.items():
        np.testing.assert_allclose(np.std(params[name]), scale, rtol=0.05)
    assert (params[f"{layer}/pre_mlp_layer_norm/scale"] == 1).all()


# ---- relative positions ----------------------------------------------------------------------


def bucket_in_plain_words(offset, bidirectional, buckets=32, furthest=128):
    """T5's bucket of one offset, one step at a time."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    steps = math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)
    return first + min(exact + math.floor(steps + 1e-6), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_of_short_and_long_distances(bidirectional):
    offsets = np.arange(-400, 401)
    buckets = relative_buckets(offsets, bidirectional, 32, 128)
    expected = [bucket_in_plain_words(int(offset), bidirectional) for offset in offsets]
    np.testing.assert_array_equal(buckets, expected)
    assert len(set(buckets[offsets <= -128])) == 1


def test_bias_is_the_table_row_of_each_pair_of_positions():
    encoder = PLAIN.bind({"params": PARAMS}).encoder
    bias = jit(lambda: toeplitz(encoder.relpos_bias(300, 300), 300))()
    table = PARAMS["encoder"]["relpos_bias"]["rel_embedding"]
    offsets = np.arange(300)[None, :] - np.arange(300)[:, None]
    np.testing.assert_array_equal(bias[0], table[:, relative_buckets(offsets, True, 32, 128)])


def test_bias_of_some_queries_is_those_rows():
    decoder = PLAIN.bind({"params": PARAMS}).decoder
    every = jit(lambda: toeplitz(decoder.relpos_bias(200, 200), 200))()
    some = jit(lambda first: toeplitz(decoder.relpos_bias(3, 200, first), 3))(jnp.int32(150))
    np.testing.assert_array_equal(some, every[:, :, 150:153])


# ---- the prompt ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    ["suffix_before_eos", *(slow(name) for name in LAYOUTS if name != "suffix_before_eos")],
)
def test_a_network_places_its_prompt_as_it_is_told(layout):
    """T5X gives rows without room for the prompt, to `encode` and again to `decode`."""
    network = Transformer(CONFIG, functools.partial(Prompt, P), layout)
    params = with_prompt(np.random.default_rng(0).normal(size=(P, CONFIG.emb_dim)))
    placed, positions = place_prompt(TOKENS, P, layout)
    expected = run(PROMPTED, params, placed, *BATCH[1:], prompt_positions=positions)
    found = run(network, params, *BATCH)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    encoded = run(network, params, TOKENS, method="encode")
    by_parts = run(network, params, encoded, *BATCH, method="decode")
    np.testing.assert_allclose(by_parts, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["prefix", "after_bos", "suffix", "suffix_before_eos"])
def test_a_prompt_of_token_embeddings_equals_those_tokens(name):
    ids = np.array([17, 5, 99, 5, 64])
    tokens, positions = place_prompt(TOKENS, P, name)
    params = with_prompt(PARAMS["token_embedder"]["embedding"][ids])
    prompted = run(PROMPTED, params, tokens, *BATCH[1:], prompt_positions=positions)
    written_out = np.where(positions >= 0, ids[np.maximum(positions, 0)], tokens)
    assert_same(prompted, run(PLAIN, PARAMS, written_out, *BATCH[1:]))


def test_changing_the_prompt_changes_every_row():
    before = run(PROMPTED, PROMPTED_PARAMS, *BATCH)
    prompt = PROMPTED_PARAMS["encoder"]["prompt"]["prompt"]
    after = run(PROMPTED, with_prompt(prompt + 1.0), *BATCH)
    assert (np.abs(before - after).max(axis=(1, 2)) > 1e-2).all()


def test_padding_changes_nothing():
    wide = np.pad(TOKENS, ((0, 0), (0, 7)))
    assert_same(
        run(PROMPTED, PROMPTED_PARAMS, wide, *BATCH[1:])[VALID],
        run(PROMPTED, PROMPTED_PARAMS, *BATCH)[VALID],
    )


@pytest.mark.slow
def test_a_bank_mixes_prompts_as_if_each_row_were_alone(key):
    bank = jax.random.normal(key, (3, P, 16))
    ids = jnp.array([2, 0, 1])
    mixed = run(BANKED, with_prompt(bank), *BATCH, prompt_ids=ids)
    for row, prompt_id in enumerate(ids):
        alone = run(PROMPTED, with_prompt(bank[prompt_id]), *(x[row : row + 1] for x in BATCH))
        assert_same(mixed[row], alone[0])


@pytest.mark.slow
def test_packed_rows_equal_their_examples(key):
    """Three examples, each with its own prompt of the bank, in one row of 40 positions."""
    bank = jax.random.normal(key, (3, P, 16))
    params = with_prompt(bank)
    tokens, positions = place_prompt(TOKENS, P, "suffix")
    lengths = (TOKENS > 0).sum(1) + P
    rows = {name: [] for name in ("tokens", "positions", "segments", "ids")}
    for i, n in enumerate(lengths):
        rows["tokens"].append(tokens[i, :n])
        rows["positions"].append(positions[i, :n])
        rows["segments"].append(np.full(n, i + 1))
        rows["ids"].append(np.full(n, 2 - i))
    spare = 51 - sum(lengths)
    assert spare >= 0
    fill = {"tokens": 0, "positions": -1, "segments": 0, "ids": 0}
    row = {k: np.concatenate([*v, np.full(spare, fill[k])])[None] for k, v in rows.items()}
    packed = run(
        BANKED,
        params,
        row["tokens"],
        DECODER_INPUTS.reshape(1, -1),
        TARGETS.reshape(1, -1),
        encoder_segment_ids=row["segments"],
        decoder_segment_ids=np.repeat([1, 2, 3], TARGETS.shape[1])[None],
        prompt_positions=row["positions"],
        prompt_ids=row["ids"],
    ).reshape(*TARGETS.shape, -1)
    alone = run(
        BANKED,
        params,
        tokens,
        *BATCH[1:],
        prompt_positions=positions,
        prompt_ids=jnp.array([2, 1, 0]),
    )
    assert_same(packed[VALID], alone[VALID])


@pytest.mark.slow
@pytest.mark.parametrize("stored", [slow(jnp.float32), jnp.bfloat16])
def test_bfloat16_runs_with_a_float32_prompt(stored):
    config = T5Config(128, 16, 2, 8, 32, 2, 2, dtype=jnp.bfloat16)
    network = Transformer(config, functools.partial(Prompt, P))
    prompt = jnp.asarray(PROMPTED_PARAMS["encoder"]["prompt"]["prompt"])
    frozen = jax.tree.map(lambda w: jnp.asarray(w, stored), PROMPTED_PARAMS)

    def mean_of(prompt):
        params = {**frozen, "encoder": {**frozen["encoder"], "prompt": {"prompt": prompt}}}
        logits = apply(network, {"params": params}, *BATCH)
        return logits.mean(), logits

    (_, logits), gradient = jit(jax.value_and_grad(mean_of, has_aux=True))(prompt)
    assert logits.dtype == gradient.dtype == jnp.float32
    close(logits[VALID], PROMPTED_IO["logits"][VALID], 0.15)
    assert run(network, PROMPTED_PARAMS, TOKENS, method="encode").dtype == jnp.bfloat16
    initial = jax.eval_shape(network.init, jax.random.key(0), *BATCH)["params"]
    assert initial["encoder"]["prompt"]["prompt"].dtype == jnp.float32


# ---- decoding --------------------------------------------------------------------------------


def ready_to_decode(network, params, encoded, tokens, prompt_positions=None):
    """(attended, cross_kv), as `decode_after` takes them."""
    weights = {"params": params}
    length = encoded.shape[1]
    attended = network.apply(weights, length, tokens, prompt_positions, method="attended")
    return attended, network.apply(weights, encoded, method="project_encoded")


@functools.partial(jax.jit, static_argnums=0, static_argnames="decode")
def next_logits(network, variables, *args, decode):
    return network.apply(variables, *args, decode=decode, method="decode_after", mutable="cache")


def step_by_step(network, params, chunks, prompt_positions=None, tokens=TOKENS, project=False):
    """Logits of DECODER_INPUTS, fed to the cache in pieces of the given lengths."""
    where = {"prompt_positions": prompt_positions}
    encoded = run(network, params, tokens, method="encode", **where)
    read = ready_to_decode(network, params, encoded, tokens, prompt_positions)
    blank = jnp.ones_like(TARGETS)
    call = functools.partial(compiled_apply, network, decode=True, mutable="cache")
    _, state = call({"params": params}, tokens, blank, blank, **where)
    logits, start = [], 0
    for n in chunks:
        piece = jnp.asarray(DECODER_INPUTS[:, start : start + n])
        variables = {"params": params, **state}
        if project:
            out, state = next_logits(network, variables, piece, *read, decode=True)
        else:
            given = encoded, tokens, piece, piece
            length = TARGETS.shape[1]
            out, state = call(variables, *given, method="decode", max_decode_length=length, **where)
        logits.append(out)
        start += n
    return jnp.concatenate(logits, axis=1), state["cache"]


@pytest.mark.parametrize(
    ("chunks", "project"), [slow((1,) * 7, False), ((1,) * 7, True), ((4, 1, 2), False)]
)
def test_steps_equal_the_full_forward(chunks, project):
    logits, cache = step_by_step(PROMPTED, PROMPTED_PARAMS, chunks, project=project)
    assert_same(logits, run(PROMPTED, PROMPTED_PARAMS, *BATCH))
    leaves = {name.split("/")[-1] for name in flatten_dict(cache, sep="/")}
    assert leaves == {"cached_key", "cached_value", "cache_index"}


@pytest.mark.slow
def test_steps_equal_the_full_forward_with_a_layout():
    tokens, positions = place_prompt(TOKENS, P, "suffix")
    logits, _ = step_by_step(PROMPTED, PROMPTED_PARAMS, (1,) * 7, positions, tokens)
    full = run(PROMPTED, PROMPTED_PARAMS, tokens, *BATCH[1:], prompt_positions=positions)
    assert_same(logits, full)


@pytest.mark.slow
def test_projecting_the_encoding_changes_nothing():
    """Short targets take another order of products than long ones and than `cross_kv`."""
    encoded = run(PLAIN, PARAMS, TOKENS, method="encode")
    attended, cross_kv = ready_to_decode(PLAIN, PARAMS, encoded, TOKENS)
    assert len(cross_kv) == 2
    assert cross_kv[0][0].shape == (3, 2, 12, 8)
    long = np.tile(DECODER_INPUTS, (1, 3))
    for inputs in (DECODER_INPUTS, long):
        weights = {"params": PARAMS}
        decoded, _ = next_logits(PLAIN, weights, inputs, attended, cross_kv, decode=False)
        args = (encoded, TOKENS, inputs, inputs)
        assert_same(run(PLAIN, PARAMS, *args, method="decode"), decoded)
    first = run(PLAIN, PARAMS, encoded, TOKENS, long, long, method="decode")[:, :7]
    assert_same(first, run(PLAIN, PARAMS, *BATCH))


def test_decoder_sees_only_the_past():
    """Gradients of each position's logits reach exactly the embeddings at or before it."""
    distinct = jnp.arange(10, 17)[None]
    encoded = run(PLAIN, PARAMS, TOKENS[:1], method="encode")

    def logit_sums(embedding):
        params = {**PARAMS, "token_embedder": {"embedding": embedding}}
        args = (encoded, TOKENS[:1], distinct, distinct)
        return apply(PLAIN, {"params": params}, *args, method="decode")[0].sum(axis=-1)

    jacobian = jit(jax.jacrev(logit_sums))(jnp.asarray(PARAMS["token_embedder"]["embedding"]))
    seen = np.abs(jacobian[:, 10:17]).sum(axis=-1) > 0
    np.testing.assert_array_equal(seen, np.tril(np.ones((7, 7), bool)))


# ---- dropout, compilation, other models ------------------------------------------------------


@pytest.mark.slow
def test_jit_equals_no_jit():
    eager = apply(PROMPTED, {"params": PROMPTED_PARAMS}, *BATCH)
    assert_same(run(PROMPTED, PROMPTED_PARAMS, *BATCH), eager)


def test_dropout_needs_both_a_rate_and_leave(key):
    config = T5Config(128, 16, 2, 8, 32, 2, 2, dropout_rate=0.5)
    network = Transformer(config, functools.partial(Prompt, P))
    expected = run(PROMPTED, PROMPTED_PARAMS, *BATCH)
    np.testing.assert_array_equal(run(network, PROMPTED_PARAMS, *BATCH), expected)
    dropped = [
        run(network, PROMPTED_PARAMS, *BATCH, enable_dropout=True, rngs={"dropout": rng})
        for rng in (key, key, jax.random.key(1))
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], expected)
    no_rate = run(PROMPTED, PROMPTED_PARAMS, *BATCH, enable_dropout=True)
    np.testing.assert_array_equal(no_rate, expected)


@pytest.mark.slow
def test_tied_relu_model_has_no_output_kernel_and_scales(key):
    config = T5Config(128, 16, 2, 8, 32, 2, 2, mlp_activations=("relu",), logits_via_embedding=True)
    network = Transformer(config)
    params = jit(network.init)(key, *BATCH)["params"]
    assert "logits_dense" not in params["decoder"]
    assert params["encoder"]["layers_0"]["mlp"].keys() == {"wi", "wo"}
    # The same model untied, with the scaled table as its output kernel.
    kernel = params["token_embedder"]["embedding"].T / 4
    untied = {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": kernel}}}
    plain = Transformer(T5Config(128, 16, 2, 8, 32, 2, 2, mlp_activations=("relu",)))
    assert_same(run(network, params, *BATCH), run(plain, untied, *BATCH))


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run(PLAIN, PARAMS, *BATCH, prompt_positions=TOKENS),
            "given to a model without a prompt",
        ),
        (
            lambda: run(PROMPTED, PROMPTED_PARAMS, *BATCH, encoder_segment_ids=TOKENS),
            "Packed rows need prompt_positions",
        ),
        (
            lambda: run(BANKED, with_prompt(jnp.zeros((3, P, 16))), *BATCH),
            "This bank holds 3 prompts: pass prompt_ids",
        ),
        (
            lambda: run(PROMPTED, PROMPTED_PARAMS, jnp.ones((3, 12, 16)), *BATCH, method="decode"),
            "12 encoded positions and 12 encoder_input_tokens",
        ),
        (
            lambda: run(PLAIN, PARAMS, *BATCH, encoder_segment_ids=TOKENS),
            "both encoder_segment_ids and decoder_segment_ids",
        ),
        (
            lambda: run(
                PLAIN, PARAMS, jnp.ones((3, 12, 16)), *BATCH, TOKENS, method="decode", decode=True
            ),
            "Packed rows cannot be decoded step by step",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_prompt_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"values are \[6, 16\].*set up for \[5, 16\]"):
        run(PROMPTED, with_prompt(jnp.zeros((P + 1, 16))), *BATCH)
