"""What is true of every family of models, for tests that bring a model and a batch of their own.

A batch has one row for each text, and a prompt [P, D] goes with it.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.family import family_of, start_decoding
from prompt_tuning_jax.params import flatten, unflatten


def assert_alike(found, expected, rtol=1e-4):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=rtol), found, expected
    )


def random_model(config, shapes) -> pt.FrozenModel:
    """Weights of the given shapes, by flat name."""
    rng = np.random.default_rng(0)
    values = {
        name: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32) for name, shape in shapes.items()
    }
    return pt.FrozenModel(config, unflatten(values))


def right_padded(rows, length, pad_id):
    return np.array([[*row, *[pad_id] * (length - len(row))] for row in rows], np.int32)


def loss_and_gradient(model, batch, prompt):
    return jax.value_and_grad(lambda p: model.loss(batch, p))(prompt)


def side_and_amount_of_padding_change_nothing(model, batch, texts, targets, prompt):
    pad_id, decoded = model.config.pad_id, batch["decoder_input_tokens"]
    valid = batch["decoder_loss_weights"] > 0
    expected = model.logits(batch["encoder_input_tokens"], decoded, prompt)
    longest = max(map(len, texts))
    for length in (longest, longest + 5):
        spare = [[pad_id] * (length - len(text)) for text in texts]
        pairs = list(zip(texts, spare, strict=True))
        sides = [
            [[*text, *pad] for text, pad in pairs],
            [[*pad, *text] for text, pad in pairs],
            [[*text[:1], *pad, *text[1:]] for text, pad in pairs],
        ]
        for tokens in sides:
            found = model.logits(np.array(tokens, np.int32), decoded, prompt)
            assert_alike(found[valid], expected[valid], rtol=1e-5)
    row = int(np.argmin([len(text) for text in texts]))
    text, target = texts[row], targets[row]
    alone = model.logits(np.array([text]), decoded[row : row + 1, : len(target)], prompt)
    assert_alike(alone[0], expected[row, : len(target)], rtol=1e-5)


def targets_do_not_see_what_comes_after_them(model, batch):
    texts, decoded = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    changed = decoded.copy()
    changed[:, 2] = 9
    one, other = model.logits(texts, decoded), model.logits(texts, changed)
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert np.abs(one[0, 2] - other[0, 2]).max() > 1e-3


def step_by_step_is_as_all_at_once(model, batch, prompt):
    """With a cache, without one, and as `logits` has it."""
    texts, decoded = batch["encoder_input_tokens"], jnp.asarray(batch["decoder_input_tokens"])
    valid, length = batch["decoder_loss_weights"] > 0, decoded.shape[1]
    expected = model.logits(texts, decoded, prompt)[valid]
    decode = functools.partial(_decoded, model.config, model.prompted(prompt).params, texts)
    assert_alike(decode(decoded)[0][valid], expected, rtol=1e-5)
    _, cache = decode(decoded, length=length)
    steps = []
    for i in range(length):
        logits, cache = decode(decoded[:, i : i + 1], cache, length=length)
        steps.append(logits)
    assert_alike(jnp.concatenate(steps, axis=1)[valid], expected, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0, static_argnames="length")
def _decoded(config, params, texts, tokens, cache=None, *, length=None):
    """Compiled whole, which is sooner done than one operation after another."""
    family = family_of(config)
    given = family.bind(config, params, {"encoder_input_tokens": texts}, "prefix")
    net, inputs, places = given
    decode = start_decoding(net, params, inputs, places)
    return decode(tokens, cache=cache, max_decode_length=length)


def beams_score_what_the_model_says(model, texts, prompt):
    tokens, scores = model.generate_tokens(texts, prompt, max_length=4, beams=3)
    start = np.full((len(texts), 1), model.config.start_id, np.int32)
    decoded = np.concatenate([start, np.asarray(tokens)[:, :-1]], axis=1)
    log_probs = jax.nn.log_softmax(model.logits(texts, decoded, prompt))
    known = jnp.minimum(tokens, log_probs.shape[-1] - 1)[..., None]
    chosen = jnp.take_along_axis(log_probs, known, -1)[..., 0]
    sums = jnp.where(tokens == model.config.pad_id, 0.0, chosen).sum(axis=1)
    np.testing.assert_allclose(scores, sums, atol=1e-4, rtol=1e-5)


def an_ensemble_of_one_prompt_twice_is_that_prompt(model, texts, prompt):
    bank = pt.TunedBank({str(i): pt.TunedPrompt(prompt) for i in range(2)})
    expected, _ = model.generate_tokens(texts, prompt, max_length=5)
    found, _ = model.generate_tokens(texts, bank.ensemble(), max_length=5)
    np.testing.assert_array_equal(found, expected)


def packed_rows_are_as_if_alone(model, batch, texts, targets, prompt):
    """All examples in one row, each with its own prompt, positions and start token."""
    pad_id, start_id, P = model.config.pad_id, model.config.start_id, len(prompt)
    row = {
        "encoder_input_tokens": [],
        "prompt_positions": [],
        "encoder_segment_ids": [],
        "decoder_input_tokens": [],
        "decoder_target_tokens": [],
        "decoder_segment_ids": [],
    }
    for number, (text, target) in enumerate(zip(texts, targets, strict=True), start=1):
        row["encoder_input_tokens"] += [*[pad_id] * P, *text]
        row["prompt_positions"] += [*range(P), *[-1] * len(text)]
        row["encoder_segment_ids"] += [number] * (P + len(text))
        row["decoder_input_tokens"] += [start_id, *target[:-1]]
        row["decoder_target_tokens"] += target
        row["decoder_segment_ids"] += [number] * len(target)
    packed = {name: np.array([values], np.int32) for name, values in row.items()}
    weights = np.full(packed["decoder_target_tokens"].shape, batch["decoder_loss_weights"].max())
    packed["decoder_loss_weights"] = weights.astype(np.float32)
    found, expected = (loss_and_gradient(model, b, prompt) for b in (packed, batch))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert_alike(found[1], expected[1])


def another_form_is_the_same(model, batch, prompt, **fields):
    """Scanned where `scan_layers` is among the fields of the config."""
    expected = loss_and_gradient(model, batch, prompt)
    other = model.scanned() if fields.get("scan_layers") else model
    other = other.replace(config=dataclasses.replace(other.config, **fields))
    assert_alike(loss_and_gradient(other, batch, prompt), expected)


def dropout_drops_and_is_off_without_a_key(model, batch, prompt):
    config = dataclasses.replace(model.config, dropout_rate=0.5)
    apply = jax.jit(family_of(config).apply, static_argnums=0)
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    params = model.prompted(prompt).params
    one, other = (apply(config, params, batch, dropout_rng=jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(one - other).max() > 1e-2
    plain = apply(config, params, batch)
    np.testing.assert_array_equal(plain, apply(model.config, params, batch))


def every_weight_has_axes(model):
    axes, weights = sharding.logical_axes(model.config), flatten(model.params)
    assert {name: len(x) for name, x in axes.items()} == {n: w.ndim for n, w in weights.items()}


def a_mesh_changes_nothing(model, batch, prompt):
    mesh, weights = sharding.make_mesh("model:2"), flatten(model.params)
    places = sharding.param_shardings(mesh, model.config, weights)
    split = model.replace(params=unflatten(sharding.put(weights, places)), mesh=mesh)
    batch = {name: np.concatenate([x, x[:1]]) for name, x in batch.items()}
    np.testing.assert_allclose(split.loss(batch, prompt), model.loss(batch, prompt), rtol=1e-5)
