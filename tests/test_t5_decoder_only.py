"""The decoder-only network against the reference's numbers, and the laws of its cache."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import GOLDEN_CONFIG, assert_same, float64, widened
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.layout import place_prompt
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.decoder_only import DecoderOnly
from prompt_tuning_jax.prompts import Prompt, PromptBank

GOLDENS = Path(__file__).parent / "goldens" / "t5x"
P = 5
CONFIG = dataclasses.replace(GOLDEN_CONFIG, num_encoder_layers=0)
PLAIN = DecoderOnly(CONFIG)
PROMPTED = DecoderOnly(CONFIG, functools.partial(Prompt, P))
BANKED = DecoderOnly(CONFIG, functools.partial(PromptBank, 3, P))


def golden_params() -> dict:
    flat = {k: jnp.asarray(v) for k, v in np.load(GOLDENS / "prompt_deconly_params.npz").items()}
    # The reference wraps its prompt module once more.
    flat["decoder/prompt/prompt"] = flat.pop("decoder/prompt/prompt/prompt")
    return unflatten_dict(flat, sep="/")


PARAMS = golden_params()
IO = dict(np.load(GOLDENS / "prompt_deconly_io.npz"))
TOKENS, TARGETS, INPUTS, WEIGHTS = (
    jnp.asarray(IO[f"in/decoder_{name}"])
    for name in ("input_tokens", "target_tokens", "causal_attention", "loss_weights")
)
WEIGHTS = WEIGHTS.astype(jnp.float32)
BATCH = {
    "decoder_input_tokens": TOKENS,
    "decoder_target_tokens": TARGETS,
    "decoder_causal_attention": INPUTS,
    "decoder_loss_weights": WEIGHTS,
}
KINDS = {"prefix": INPUTS, "causal": None}
VALID = np.asarray(TARGETS) > 0
INPUT_LENGTHS = np.asarray(INPUTS).sum(axis=1) - 1  # as T5X counts: without the shifted last one

either_kind = pytest.mark.parametrize("kind", ["prefix", "causal"])
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
STATIC = ("network", "enable_dropout", "decode", "prefill", "mutable")


def apply(network, variables, tokens, inputs=None, *, enable_dropout=False, **kwargs):
    return network.apply(
        variables,
        tokens,
        tokens,
        decoder_causal_attention=inputs,
        enable_dropout=enable_dropout,
        **kwargs,
    )


compiled_apply = jit(apply, static_argnames=STATIC)


def run(network, params, *args, **kwargs):
    return compiled_apply(network, {"params": params}, *args, **kwargs)


def with_prompt(prompt) -> dict:
    return {"decoder": {**PARAMS["decoder"], "prompt": {"prompt": prompt}}}


def without_prompt() -> dict:
    return {"decoder": {k: v for k, v in PARAMS["decoder"].items() if k != "prompt"}}


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


# ---- the originals ---------------------------------------------------------------------------


@either_kind
def test_logits_agree_with_the_reference(kind):
    assert run(PROMPTED, PARAMS, TOKENS, KINDS[kind]).dtype == jnp.float32
    with float64():
        config, params = widened(PROMPTED.config, PARAMS)
        network = DecoderOnly(config, functools.partial(Prompt, P))
        logits = run(network, params, TOKENS, KINDS[kind])
    close(logits[VALID], IO[f"{kind}/logits"][VALID], 3e-6)


@either_kind
def test_loss_and_prompt_gradient_agree_with_the_reference(kind):
    def loss(prompt):
        """T5X's: cross-entropy plus 1e-4 z-loss, summed over the targets."""
        logits = apply(PROMPTED, {"params": with_prompt(prompt)}, TOKENS, KINDS[kind])
        log_z = jax.nn.logsumexp(logits, axis=-1)
        nll = log_z - jnp.take_along_axis(logits, TARGETS[..., None], axis=-1)[..., 0]
        return jnp.sum((nll + 1e-4 * log_z**2) * WEIGHTS)

    value, gradient = jit(jax.value_and_grad(loss))(PARAMS["decoder"]["prompt"]["prompt"])
    np.testing.assert_allclose(value, IO[f"{kind}/loss"], rtol=1e-6)
    expected = IO[f"{kind}/grad_prompt"]
    close(gradient, expected, 2e-6 * np.abs(expected).max())


@either_kind
def test_scores_and_greedy_decodes_agree_with_the_reference(kind):
    log_probs = jax.nn.log_softmax(run(PROMPTED, PARAMS, TOKENS, KINDS[kind]))
    scores = jnp.take_along_axis(log_probs, TARGETS[..., None], axis=-1)[..., 0] * WEIGHTS
    close(scores.sum(axis=1), IO[f"{kind}/score_batch"])
    np.testing.assert_array_equal(greedy(PARAMS, kind), IO[f"{kind}/greedy_decodes"])


def test_parameter_tree_is_the_reference_s(key):
    variables = jit(PROMPTED.init)(key, TOKENS, TARGETS)
    params = flatten_dict(variables["params"], sep="/")
    expected = flatten_dict(PARAMS, sep="/")
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in expected.items()}
    axes = flatten_dict(variables["params_axes"], sep="/")
    assert axes.keys() == {f"{name}_axes" for name in expected}
    assert axes["decoder/prompt/prompt_axes"].names == ("prompt", "embed")


# ---- the prompt ------------------------------------------------------------------------------


@either_kind
def test_a_prompt_of_token_embeddings_equals_those_tokens(kind):
    ids = np.array([17, 5, 99, 5, 64])
    prompt = PARAMS["decoder"]["token_embedder"]["embedding"][ids]
    prompted = run(PROMPTED, with_prompt(prompt), TOKENS, KINDS[kind])
    written_out = jnp.concatenate([jnp.tile(ids, (3, 1)), TOKENS], axis=1)
    inputs = None if kind == "causal" else jnp.pad(INPUTS, ((0, 0), (P, 0)), constant_values=1)
    plain = run(PLAIN, without_prompt(), written_out, inputs)[:, P:]
    assert_same(prompted, plain)


@either_kind
def test_prefix_built_inside_equals_layout_passed(kind):
    tokens, positions = place_prompt(TOKENS, P)
    inputs = None if kind == "causal" else place_prompt(INPUTS, P)[0]
    given = run(PROMPTED, PARAMS, tokens, inputs, prompt_positions=positions)
    assert given.shape == (3, 14 + P, 128)
    np.testing.assert_array_equal(given[:, P:], run(PROMPTED, PARAMS, TOKENS, KINDS[kind]))


def test_a_prompt_after_the_first_token_differs_from_a_prefix():
    tokens, positions = place_prompt(TOKENS, P, "after_bos")
    after = run(PROMPTED, PARAMS, tokens, None, prompt_positions=positions)
    before = run(PROMPTED, PARAMS, TOKENS)
    assert np.abs(after[:, P + 1 :] - before[:, 1:]).max() > 1e-2


@either_kind
def test_changing_the_prompt_changes_every_row_and_what_is_generated(kind, key):
    before = run(PROMPTED, PARAMS, TOKENS, KINDS[kind])
    prompt = jax.random.normal(key, (P, 16))
    after = run(PROMPTED, with_prompt(prompt), TOKENS, KINDS[kind])
    assert (np.abs(before - after).max(axis=(1, 2)) > 1e-2).all()
    generated = greedy(with_prompt(prompt), kind)
    assert (generated != IO[f"{kind}/greedy_decodes"]).any(axis=1).all()


@pytest.mark.slow
def test_a_bank_mixes_prompts_as_if_each_row_were_alone(key):
    bank = jax.random.normal(key, (3, P, 16))
    ids = jnp.array([2, 0, 1])
    mixed = run(BANKED, with_prompt(bank), TOKENS, INPUTS, prompt_ids=ids)
    for row, prompt_id in enumerate(ids):
        here = slice(row, row + 1)
        alone = run(PROMPTED, with_prompt(bank[prompt_id]), TOKENS[here], INPUTS[here])
        assert_same(mixed[row], alone[0])


@pytest.mark.slow
def test_packed_rows_equal_their_examples():
    """Two examples, each with the prompt before it, in one row."""
    tokens, positions = place_prompt(TOKENS, P)
    inputs = place_prompt(INPUTS, P)[0]
    packed = run(
        PROMPTED,
        PARAMS,
        tokens[:2].reshape(1, -1),
        inputs[:2].reshape(1, -1),
        prompt_positions=positions[:2].reshape(1, -1),
        decoder_segment_ids=jnp.repeat(jnp.array([1, 2]), 14 + P)[None],
    ).reshape(2, 14 + P, -1)
    alone = run(PROMPTED, PARAMS, TOKENS[:2], INPUTS[:2])
    assert_same(packed[:, P:][VALID[:2]], alone[VALID[:2]])


def test_who_may_look_at_whom():
    """Gradients of each position's logits reach every input, and targets only at or before it."""
    tokens = jnp.arange(10, 17)[None]
    inputs = jnp.array([[1, 1, 1, 1, 0, 0, 0]])

    def logit_sums(embedding):
        params = with_prompt(PARAMS["decoder"]["prompt"]["prompt"])
        params["decoder"]["token_embedder"] = {"embedding": embedding}
        return apply(PROMPTED, {"params": params}, tokens, inputs)[0].sum(axis=-1)

    embedding = PARAMS["decoder"]["token_embedder"]["embedding"]
    seen = np.abs(jit(jax.jacrev(logit_sums))(embedding)[:, 10:17]).sum(axis=-1) > 0
    expected = np.tril(np.ones((7, 7), bool))
    expected[:4, :4] = True
    np.testing.assert_array_equal(seen, expected)


# ---- the cache -------------------------------------------------------------------------------


def prefilled(network, params, kind, tokens=TOKENS, lengths=INPUT_LENGTHS, **kwargs) -> dict:
    """Variables with a cache that holds the inputs, by the calls that T5X makes."""
    call = functools.partial(compiled_apply, network, mutable="cache")
    _, state = call({"params": params}, jnp.ones_like(tokens), decode=True, **kwargs)
    _, state = call(
        {"params": params, **state},
        tokens,
        KINDS[kind],
        prefill=True,
        prefill_lengths=jnp.asarray(lengths),
        **kwargs,
    )
    return {"params": params, **state}


def step(network, variables, tokens):
    """(logits [B, V], variables) after one more token [B]."""
    logits, state = compiled_apply(
        network, variables, tokens[:, None], decode=True, mutable="cache"
    )
    return logits[:, 0], {**variables, **state}


def greedy(params, kind) -> np.ndarray:
    """The likeliest continuation of every row's inputs until the row is full, EOS or not."""
    variables = prefilled(PROMPTED, params, kind, TOKENS * INPUTS)
    rows = np.arange(3)
    newest = np.asarray(TOKENS)[rows, INPUT_LENGTHS]
    generated = np.zeros((3, 14), np.int32)
    for i in range(14):
        logits, variables = step(PROMPTED, variables, jnp.asarray(newest))
        newest = np.asarray(jnp.argmax(logits, axis=-1), np.int32)
        generated[:, i] = np.where(INPUT_LENGTHS + i < 14, newest, 0)
    return generated


@either_kind
def test_prefill_and_steps_equal_the_full_forward(kind):
    """Every row begins where its own inputs end."""
    full = run(PROMPTED, PARAMS, TOKENS, KINDS[kind])
    variables = prefilled(PROMPTED, PARAMS, kind, TOKENS * INPUTS)
    rows = np.arange(3)
    for i in range(14 - INPUT_LENGTHS.max()):
        at = INPUT_LENGTHS + i
        logits, variables = step(PROMPTED, variables, TOKENS[rows, at])
        assert_same(logits, full[rows, at])
    np.testing.assert_array_equal(variables["cache"]["decoder"]["cache_index"], at + 1 + P)


def test_prefill_and_steps_equal_the_full_forward_with_a_layout():
    tokens, positions = place_prompt(TOKENS, P, "after_bos")
    lengths = INPUT_LENGTHS + P
    full = run(PROMPTED, PARAMS, tokens, None, prompt_positions=positions)
    variables = prefilled(PROMPTED, PARAMS, "causal", tokens, lengths, prompt_positions=positions)
    rows = np.arange(3)
    for i in range(4):
        logits, variables = step(PROMPTED, variables, tokens[rows, lengths + i])
        assert_same(logits, full[rows, lengths + i])


def test_steps_need_no_prefill_where_there_is_no_prompt():
    params = without_prompt()
    full = run(PLAIN, params, TOKENS)
    _, state = compiled_apply(PLAIN, {"params": params}, TOKENS, decode=True, mutable="cache")
    variables = {"params": params, **state}
    for i in range(14):
        logits, variables = step(PLAIN, variables, TOKENS[:, i])
        assert_same(logits, full[:, i])


def test_steps_beyond_the_cache_do_not_touch_other_rows():
    """A row that is full waits while others go on."""
    variables = prefilled(PROMPTED, PARAMS, "prefix", lengths=np.array([13, 3, 13]))
    for i in range(6):
        logits, variables = step(PROMPTED, variables, TOKENS[:, 3 + i])
    assert_same(logits[1], run(PROMPTED, PARAMS, TOKENS, INPUTS)[1, 8])


# ---- dropout, dtype, errors ------------------------------------------------------------------


@pytest.mark.slow
def test_jit_equals_no_jit():
    eager = apply(PROMPTED, {"params": PARAMS}, TOKENS, INPUTS)
    assert_same(run(PROMPTED, PARAMS, TOKENS, INPUTS), eager)


@pytest.mark.slow
def test_rematerialisation_changes_no_number():
    config = dataclasses.replace(CONFIG, remat_policy="full")

    def gradient(network):
        def loss(prompt):
            return jnp.sum(apply(network, {"params": with_prompt(prompt)}, TOKENS, INPUTS) ** 2)

        return jit(jax.grad(loss))(PARAMS["decoder"]["prompt"]["prompt"])

    expected = gradient(PROMPTED)
    again = gradient(DecoderOnly(config, functools.partial(Prompt, P)))
    assert_same(again, expected)


@pytest.mark.slow
def test_dropout_follows_its_key(key):
    config = T5Config(128, 16, 2, 8, 32, 0, 2, dropout_rate=0.5)
    network = DecoderOnly(config, functools.partial(Prompt, P))
    dropped = [
        run(network, PARAMS, TOKENS, enable_dropout=True, rngs={"dropout": rng})
        for rng in (key, key, jax.random.key(1))
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    np.testing.assert_array_equal(run(network, PARAMS, TOKENS), run(PROMPTED, PARAMS, TOKENS))


def test_bfloat16_runs_with_a_float32_prompt():
    config = T5Config(128, 16, 2, 8, 32, 0, 2, dtype=jnp.bfloat16)
    network = DecoderOnly(config, functools.partial(Prompt, P))
    logits = run(network, PARAMS, TOKENS, INPUTS)
    assert logits.dtype == jnp.float32
    close(logits[VALID], IO["prefix/logits"][VALID], 0.15)


ROW = TOKENS[:, :1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: run(PLAIN, without_prompt(), TOKENS, prompt_positions=TOKENS),
            "given to a model without a prompt",
        ),
        (
            lambda: run(PROMPTED, PARAMS, TOKENS, decoder_segment_ids=TOKENS),
            "Packed rows need prompt_positions",
        ),
        (
            lambda: run(PROMPTED, PARAMS, TOKENS, decode=True, prefill=True),
            "first prefill, then decode",
        ),
        (
            lambda: run(PROMPTED, PARAMS, TOKENS, prefill=True),
            "needs prefill_lengths",
        ),
        (
            lambda: run(PROMPTED, PARAMS, TOKENS, prefill=True, prefill_lengths=INPUT_LENGTHS),
            "no cache to fill",
        ),
        (
            lambda: run(PLAIN, without_prompt(), TOKENS, decoder_segment_ids=TOKENS, decode=True),
            "Packed rows cannot be decoded",
        ),
        (
            lambda: compiled_apply(
                PROMPTED,
                prefilled(PROMPTED, PARAMS, "causal"),
                TOKENS[:, :9],
                prefill=True,
                prefill_lengths=INPUT_LENGTHS,
                mutable="cache",
            ),
            "made for rows of 19 positions, the prompt's included, and these have 14",
        ),
        (
            lambda: compiled_apply(
                PROMPTED,
                prefilled(PROMPTED, PARAMS, "causal"),
                TOKENS,
                decode=True,
                mutable="cache",
            ),
            "takes one token a row",
        ),
        (
            lambda: step(
                PROMPTED,
                {
                    "params": PARAMS,
                    **compiled_apply(
                        PROMPTED, {"params": PARAMS}, TOKENS, decode=True, mutable="cache"
                    )[1],
                },
                TOKENS[:, 0],
            ),
            "The cache does not hold the prompt",
        ),
        (
            lambda: run(DecoderOnly(T5Config(128, 16, 2, 8, 32, 1, 2)), PARAMS, TOKENS),
            "num_encoder_layers=0",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- under T5X -------------------------------------------------------------------------------


class Vocabulary:
    """What T5X's models ask of a vocabulary."""

    pad_id, eos_id, vocab_size = 0, 1, 128


def t5x_model(kind):
    from t5x import decoding, models

    return models.DecoderOnlyModel(
        PROMPTED,
        Vocabulary(),
        optimizer_def=None,
        decode_fn=functools.partial(decoding.temperature_sample, temperature=0.0),
        inputs_bidirectional_attention=kind == "prefix",
        z_loss=1e-4,
    )


@pytest.mark.t5x
@either_kind
def test_t5x_s_own_model_gives_the_reference_s_numbers(kind):
    """The reference needs a model class of its own for this."""
    model = t5x_model(kind)
    loss, _ = jax.jit(model.loss_fn)(PARAMS, BATCH, None)
    np.testing.assert_allclose(loss, IO[f"{kind}/loss"], rtol=1e-6)
    close(jax.jit(model.score_batch)(PARAMS, BATCH), IO[f"{kind}/score_batch"])
    decodes, aux = jax.jit(model.predict_batch_with_aux)(PARAMS, BATCH)
    np.testing.assert_array_equal(decodes, IO[f"{kind}/greedy_decodes"])
    np.testing.assert_array_equal(aux["scores"], IO[f"{kind}/greedy_scores"])


@pytest.mark.t5x
def test_t5x_decodes_several_samples_a_row():
    predict = functools.partial(
        t5x_model("prefix").predict_batch_with_aux,
        num_decodes=3,
        decoder_params={"temperature": 1.0, "topk": 0, "rescale_log_probs": False},
    )
    decodes, aux = jax.jit(predict)(PARAMS, BATCH, jax.random.PRNGKey(0))
    assert decodes.shape == (3, 14)
    assert (decodes != IO["prefix/greedy_decodes"]).any(axis=1).all()
    assert np.isfinite(aux["scores"]).all()


@pytest.mark.t5x
def test_parameter_tree_and_axes_are_those_of_t5x_s_example(key):
    reason = "need T5X's examples: its source tree on PYTHONPATH, which pip does not install"
    network = pytest.importorskip("t5x.examples.decoder_only.network", reason=reason)
    config = network.TransformerConfig(
        vocab_size=128,
        emb_dim=16,
        num_heads=2,
        num_layers=2,
        head_dim=8,
        mlp_dim=32,
        mlp_activations=("gelu", "linear"),
        dropout_rate=0.0,
    )
    theirs = network.DecoderWrapper(config)
    with jax.numpy_rank_promotion("allow"):
        variables = jax.jit(theirs.init)({"params": key, "dropout": key}, TOKENS, TARGETS)
    ours = jit(PLAIN.init)(key, TOKENS, TARGETS)
    for collection in ("params", "params_axes"):
        expected = flatten_dict(variables[collection], sep="/")
        found = flatten_dict(ours[collection], sep="/")
        assert found.keys() == expected.keys()
    assert ours["params_axes"] == variables["params_axes"]
    for kind in KINDS.values():
        with jax.numpy_rank_promotion("allow"):
            logits = theirs.apply(
                variables, TOKENS, TARGETS, decoder_causal_attention=kind, enable_dropout=False
            )
        close(run(PLAIN, variables["params"], TOKENS, kind)[VALID], logits[VALID])
