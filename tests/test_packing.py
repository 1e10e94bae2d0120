"""Packed batches: what is in them, and that a model and a run cannot tell them from padded ones."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from common import slow
from test_encoding import Letters

from prompt_tuning_jax import ExampleList, TunedPrompt, save_prompt, train_many
from prompt_tuning_jax import train as run
from prompt_tuning_jax.data.batches import TrainBatches
from prompt_tuning_jax.data.packing import (
    PackedBatches,
    Shape,
    arrange,
    first_fit,
    pack,
    padding,
    row_counts,
)
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.layout import LAYOUTS, place_prompt
from prompt_tuning_jax.models.t5.apply import apply
from prompt_tuning_jax.optim import weighted_loss
from prompt_tuning_jax.params import flatten, with_prompt

P = 5
LENGTHS = {"inputs": 40, "targets": 12}


def make_source(size=150, seed=0):
    rng = np.random.default_rng(seed)
    return ExampleList(
        {
            "inputs": chr(97 + i % 26) * rng.integers(1, 50),
            "targets": chr(65 + i % 26) * rng.integers(1, 14),
        }
        for i in range(size)
    )


COMMON = {"batch_size": 8, "lengths": LENGTHS, "seed": 5}


def make_packed(**options):
    options = COMMON | {"prompt_length": P} | options
    return PackedBatches(make_source(), Letters(), **options)


def make_padded():
    return TrainBatches(make_source(), Letters(), **COMMON, buckets={"inputs": (), "targets": ()})


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- which examples share a row


def test_rows_hold_every_example_once_and_as_many_as_fit():
    rng = np.random.default_rng(0)
    for _ in range(200):
        room = np.array([rng.integers(20, 60), rng.integers(8, 20)])
        sizes = rng.integers(1, room + 1, (rng.integers(1, 40), 2))
        rows = first_fit(sizes.tolist(), tuple(room))
        assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
        left = [room - sizes[row].sum(0) for row in rows]
        assert (np.array(left) >= 0).all()
        for earlier, row in itertools.combinations(range(len(rows)), 2):
            assert all((sizes[i] > left[earlier]).any() for i in rows[row])


def test_rows_are_as_few_as_can_be_where_sizes_pair_up():
    sizes = [(n, 1) for n in (10, 90, 30, 70, 45, 55, 20, 80)]
    assert [sorted(row) for row in first_fit(sizes, (100, 8))] == [[0, 1], [6, 7], [2, 3], [4, 5]]


@pytest.mark.parametrize(("batch_size", "multiple"), [(1, 1), (16, 1), (32, 4), (100, 8), (6, 4)])
def test_a_batch_has_few_numbers_of_rows(batch_size, multiple):
    counts = row_counts(batch_size, multiple)
    assert len(counts) <= 16
    assert not any(count % multiple for count in counts)
    assert set(np.diff(counts)) <= {counts[0]}
    assert batch_size <= counts[-1] < batch_size + counts[0]


def test_targets_are_as_long_as_costs_least():
    counts = row_counts(4)
    short = [(25, 3)] * 4  # one row, where its targets have 12 positions or more
    assert arrange(short, 100, [8, 16, 32], counts) == ([[0, 1, 2, 3]], Shape(1, 100, 16))
    long = [(25, 300)] * 4  # 2 * (100 + 600) is less than 1 * (100 + 1500)
    assert arrange(long, 100, [300, 600, 1500], counts)[1] == Shape(2, 100, 600)
    assert arrange(long, 600, [300, 600, 1500], counts)[1] == Shape(1, 600, 1500)
    assert arrange([(25, 3)] * 5, 100, [8, 16], [4, 8])[1].rows == 4


def test_a_packed_batch_reads_like_this():
    pairs = [([7, 8, 1], [4, 1]), ([9, 1], [5, 6, 1])]
    batch = pack(pairs, [[1, 0]], Shape(2, 12, 6), 2, "suffix_before_eos", prompt_ids=[3, 4])
    expected = {
        "encoder_input_tokens": [9, 0, 0, 1, 7, 8, 0, 0, 1, 0, 0, 0],
        "prompt_positions": [-1, 0, 1, -1, -1, -1, 0, 1, -1, -1, -1, -1],
        "encoder_segment_ids": [1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0],
        "decoder_input_tokens": [0, 5, 6, 0, 4, 0],
        "decoder_target_tokens": [5, 6, 1, 4, 1, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
        "decoder_segment_ids": [1, 1, 1, 2, 2, 0],
        "prompt_ids": [4, 4, 4, 4, 3, 3, 3, 3, 3, 0, 0, 0],
    }
    assert {name: x[0].tolist() for name, x in batch.items()} == expected
    empty = {name: set(x[1].tolist()) for name, x in batch.items()}
    assert empty == {name: {-1 if name == "prompt_positions" else 0} for name in expected}
    assert {x.dtype.name for x in batch.values()} == {"int32", "float32"}


# --- batches


def examples_of(batch):
    """The (inputs, targets) of a batch, packed or not, sorted."""
    found = []
    for row in range(len(batch["encoder_input_tokens"])):
        one = {name: x[row] for name, x in batch.items()}
        inputs, targets = one["encoder_input_tokens"], one["decoder_target_tokens"]
        whole = np.ones_like(inputs), np.ones_like(targets)
        ids = one.get("encoder_segment_ids", whole[0]), one.get("decoder_segment_ids", whole[1])
        for number in range(1, ids[0].max() + 1):
            tokens, answer = inputs[ids[0] == number], targets[ids[1] == number]
            found.append((tokens[tokens > 0].tolist(), answer[answer > 0].tolist()))
    return sorted(found)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_step_has_the_examples_of_the_padded_one(layout):
    packed, padded, rows = make_packed(layout=layout), make_padded(), []
    for batch, plain in zip(take(packed, 40), take(padded, 40), strict=True):  # over two epochs
        assert examples_of(batch) == examples_of(plain)
        assert batch["decoder_loss_weights"].sum() == plain["decoder_loss_weights"].sum()
        rows.append(len(batch["encoder_input_tokens"]))
    assert max(rows) <= 8
    assert np.mean(rows) < 7
    assert packed.truncated_inputs == padded.truncated_inputs > 0
    assert packed.truncated_targets == padded.truncated_targets > 0


def test_shapes_are_few():
    shapes = {
        (*batch["encoder_input_tokens"].shape, batch["decoder_input_tokens"].shape[1])
        for batch in take(make_packed(), 200)
    }
    assert {length for _, length, _ in shapes} == {LENGTHS["inputs"] + P}
    assert len(shapes) <= 10


def test_interrupted_anywhere_the_batches_go_on_bit_identically():
    whole = take(make_packed(), 60)  # over three epochs
    for stop in (1, 7, 19, 40):
        first, second = make_packed(), make_packed()
        take(first, stop)
        second.set_state(json.loads(json.dumps(first.get_state())))
        assert second.get_state() == first.get_state()
        assert_same(take(second, 20), whole[stop : stop + 20])


def test_prefetched_states_belong_to_their_batches():
    plain = make_packed()
    with Prefetcher(make_packed()) as prefetched:
        for batch, state in take(prefetched, 10):
            assert_same([batch], [next(plain)])
            assert state == plain.get_state()


def test_hosts_read_their_own_rows():
    whole, host = make_packed(row_multiple=2), make_packed(row_multiple=2)
    host.share(lambda counted: counted[None], 0, 1, lambda rows: range(rows // 2, rows))
    for batch, part in zip(take(whole, 15), take(host, 15), strict=True):
        half = len(batch["prompt_positions"]) // 2
        for name, values in part.items():
            assert values.dtype == batch[name].dtype
            np.testing.assert_array_equal(values[half:], batch[name][half:])
            assert (values[:half] == padding(name, 0)).all()


# --- the model


@pytest.fixture(scope="module")
def deep(vocabulary):
    """(config, weights) of two layers in each stack."""
    config = tiny.make_config(vocabulary, num_encoder_layers=2, num_decoder_layers=2)
    return config, jax.tree.map(jnp.asarray, tiny.make_params(config))


def make_pairs(size, vocab_size, longest=(12, 4)):
    rng = np.random.default_rng(size)
    return [
        tuple([*rng.integers(2, vocab_size, rng.integers(1, n)).tolist(), 1] for n in longest)
        for _ in range(size)
    ]


def one_by_one(pairs, layout, shape=(12, 4)):
    """The padded batch, with its prompts laid out."""
    rows = [[i] for i in range(len(pairs))]
    batch = pack(pairs, rows, Shape(len(pairs), *shape), 0)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch = {name: batch[name] for name in (*names, "decoder_loss_weights")}
    tokens, positions = place_prompt(batch["encoder_input_tokens"], P, layout)
    return batch | {"encoder_input_tokens": tokens, "prompt_positions": positions}


def packed_in_rows(pairs, layout="prefix", room=(41, 16), **options):
    sizes = [(len(inputs) + P, len(targets)) for inputs, targets in pairs]
    rows = first_fit(sizes, room)
    return rows, pack(pairs, rows, Shape(len(rows) + 1, *room), P, layout, **options)


def logits_by_example(logits, rows, pairs):
    """Example -> the logits of its target positions."""
    found = {}
    for row, members in zip(logits, rows, strict=False):
        lengths = [len(pairs[i][1]) for i in members]
        found |= dict(zip(members, np.split(row, np.cumsum(lengths))[:-1], strict=True))
    return found


def assert_logits_equal(packed, alone, pairs):
    assert sorted(packed) == list(range(len(pairs)))
    for i, (_, targets) in enumerate(pairs):
        np.testing.assert_allclose(packed[i], alone[i][: len(targets)], atol=5e-5)


@pytest.mark.parametrize(
    ("layout", "visibility"),
    [
        ("after_bos", "isolated"),
        *(slow(name, "full") for name in LAYOUTS),
        slow("suffix", "isolated"),
    ],
)
def test_logits_loss_and_gradient_are_those_of_padded_rows(deep, key, layout, visibility):
    config = dataclasses.replace(deep[0], prompt_visibility=visibility)
    prompt, pairs = jax.random.normal(key, (P, 16)), make_pairs(9, deep[0].vocab_size)
    rows, packed = packed_in_rows(pairs, layout)
    assert max(map(len, rows)) > 2

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(prompt, batch):
        logits = apply(config, with_prompt(deep[1], prompt), batch, layout)
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        return weighted_loss(logits, targets, weights), logits

    (total, logits), gradient = loss(prompt, packed)
    (expected, alone), slope = loss(prompt, one_by_one(pairs, layout))
    assert_logits_equal(logits_by_example(np.asarray(logits), rows, pairs), alone, pairs)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=5e-5 * np.abs(slope).max())


@pytest.mark.slow
def test_each_example_has_its_own_prompt_of_a_bank(deep, key):
    bank, pairs = jax.random.normal(key, (3, P, 16)), make_pairs(9, deep[0].vocab_size)
    ids = [i % 3 for i in range(9)]
    rows, packed = packed_in_rows(pairs, "suffix", prompt_ids=ids)
    step = jax.jit(lambda values, batch: apply(deep[0], with_prompt(deep[1], values), batch))
    logits = step(bank, packed)
    for prompt_id in range(3):
        alone = step(bank[prompt_id], one_by_one(pairs, "suffix"))
        for i, mine in logits_by_example(np.asarray(logits), rows, pairs).items():
            if ids[i] == prompt_id:
                np.testing.assert_allclose(mine, alone[i][: len(mine)], atol=5e-5)


def test_an_example_cannot_see_the_others(deep, key):
    """Other tokens in one example change nothing, not a bit, in the others of its row."""
    pairs = make_pairs(9, deep[0].vocab_size)
    rows, _ = packed_in_rows(pairs)
    row = max(rows, key=len)
    changed = list(pairs)
    inputs, targets = changed[row[1]]
    changed[row[1]] = [9] * (len(inputs) - 1) + [1], [9] * (len(targets) - 1) + [1]
    params = with_prompt(deep[1], jax.random.normal(key, (P, 16)))
    step = jax.jit(lambda batch: apply(deep[0], params, batch))
    before, after = (
        logits_by_example(np.asarray(step(pack(p, rows, Shape(len(rows), 41, 16), P))), rows, p)
        for p in (pairs, changed)
    )
    assert np.abs(before.pop(row[1]) - after.pop(row[1])).max() > 1e-3
    for i in before:
        np.testing.assert_array_equal(before[i], after[i])


def test_packed_rows_without_prompt_positions_are_refused(model):
    batch = next(make_packed())
    del batch["prompt_positions"]
    largest = np.int32(model.config.vocab_size - 1)
    batch = {n: np.minimum(x, largest) if n.endswith("tokens") else x for n, x in batch.items()}
    with pytest.raises(ValueError, match=r"Packed rows need prompt_positions.*packing\.pack"):
        model.loss(batch, np.zeros((P, model.config.emb_dim), np.float32))


# --- training


# Nothing is evaluated.
TASK = tiny.make_task(splits={"train": tiny.make_task().splits["train"]})


@pytest.fixture(scope="module")
def start(model, tmp_path_factory):
    """Trains on sentences that all fall in one bucket, so that their order is the source's."""
    home = tmp_path_factory.mktemp("runs")

    def start(name, **changes):
        settings = {
            "model": model,
            "task": TASK,
            "model_dir": str(home / name),
            "feature_lengths": tiny.LENGTHS,
            "batch_size": 8,
            "prompt_length": P,
            "dropout_rate": 0.0,
            "trainable": tiny.PLAIN_STEPS,
            "quiet": True,
        }
        return run(**(settings | {"train_steps": 4} | changes))

    return start


@pytest.fixture(scope="module")
def packed(start):
    only = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: only)
        return start("packed", pack=True)


def assert_near(ours, theirs):
    np.testing.assert_allclose(ours.prompt.values, theirs.prompt.values, atol=1e-5)


def test_a_packed_run_ends_as_the_padded_one(start, packed):
    """On one device and on two."""
    assert_near(packed, start("padded"))


@pytest.mark.usefixtures("one_device")
def test_a_continued_run_is_bit_identical(start, packed):
    start("parts", pack=True, train_steps=2)
    np.testing.assert_array_equal(start("parts", pack=True).prompt.values, packed.prompt.values)
    with pytest.raises(ValueError, match="pack was True, now False"):
        start("parts")


@pytest.mark.slow
def test_a_packed_run_behind_a_shared_prompt_ends_as_the_padded_one(start, model, tmp_path, key):
    values = np.asarray(jax.random.normal(key, (3, model.config.emb_dim)))
    save_prompt(
        tmp_path / "shared",
        TunedPrompt(values, "suffix"),
        base_model=model.name,
        fingerprint=model.fingerprint,
        vocabulary_hash=model.vocabulary.fingerprint,
    )
    options = {"shared_prompt": str(tmp_path / "shared"), "prompt_layout": "suffix"}
    options["train_steps"] = 2
    ours = start("packed behind", pack=True, **options)
    assert ours.prompt.values.shape == (3 + P, model.config.emb_dim)
    assert_near(ours, start("padded behind", **options))


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_model_tuning_can_pack(start):
    options = {"prompt_length": 0, "train_steps": 2, "trainable": ((".*", optax.sgd(0.01)),)}
    padded, packed = start("padded model", **options), start("packed model", pack=True, **options)
    expected = flatten(padded.model.params)
    for name, x in flatten(packed.model.params).items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_runs_together_can_pack(model, packed, tmp_path):
    """Batches of different numbers of rows in one step."""
    settings = {"model": model, "task": TASK, "feature_lengths": tiny.LENGTHS}
    settings |= {"batch_size": 8, "prompt_length": P, "quiet": True, "dropout_rate": 0.0}
    settings |= {"model_dir": str(tmp_path), "pack": True, "train_steps": 4}
    settings["trainable"] = tiny.PLAIN_STEPS
    results = train_many({"a": {"seed": 0}, "b": {"seed": 1}}, **settings)
    assert_near(results["a"], packed)
    assert np.abs(results["b"].prompt.values - packed.prompt.values).max() > 1e-3
