"""Batches: their contents, and that they can be stopped and continued anywhere."""

import json
import threading

import numpy as np
import pytest
from test_encoding import Letters

from prompt_tuning_jax.data.batches import TrainBatches, eval_batches
from prompt_tuning_jax.data.encoding import INPUT_BUCKETS, Encoder, bucket_lengths
from prompt_tuning_jax.data.task import ExampleList

LENGTHS = {"inputs": 64, "targets": 16}


def make_source(size=150, longest=90, seed=0):
    rng = np.random.default_rng(seed)
    return ExampleList(
        {
            "inputs": chr(97 + i % 26) * rng.integers(1, longest),
            "targets": chr(65 + i % 26) * rng.integers(1, 12),
        }
        for i in range(size)
    )


def make_batches(source=None, **options):
    options = {"batch_size": 4, "lengths": LENGTHS, "seed": 5} | options
    return TrainBatches(source or make_source(), Letters(), **options)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_has_t5x_features():
    source = ExampleList([{"inputs": "abc", "targets": "XY"}])
    batch = next(make_batches(source, batch_size=1))
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, :4] = [97, 98, 99, 1]
    target = [[88, 89, 1, 0, 0, 0, 0, 0]]
    expected = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.array([[0, 88, 89, 0, 0, 0, 0, 0]], np.int32),
        "decoder_target_tokens": np.array(target, np.int32),
        "decoder_loss_weights": np.array([[1, 1, 1, 0, 0, 0, 0, 0]], np.float32),
    }
    assert_same([batch], [expected])


def test_buckets_hold_every_row_and_no_more_than_needed():
    widths = set()
    for batch in take(make_batches(), 60):
        lengths = (batch["encoder_input_tokens"] > 0).sum(1)
        width = batch["encoder_input_tokens"].shape[1]
        smaller = [b for b in bucket_lengths(64, INPUT_BUCKETS) if b < width]
        assert lengths.max() <= width
        assert lengths.min() > max(smaller, default=0)
        assert batch["decoder_target_tokens"].shape[1] in (8, 16)
        widths.add(width)
    assert widths == {32, 48, 64}


def test_empty_buckets_pad_everything_to_the_maximum():
    batches = make_batches(buckets={"inputs": (), "targets": ()})
    shapes = {batch["encoder_input_tokens"].shape for batch in take(batches, 20)}
    assert shapes == {(4, 64)}


def test_every_example_comes_once_an_epoch():
    source = ExampleList({"inputs": f"{i}", "targets": "x"} for i in range(40))
    rows = [tuple(row) for b in take(make_batches(source), 20) for row in b["encoder_input_tokens"]]
    assert len(set(rows[:40])) == 40
    assert set(rows[:40]) == set(rows[40:])
    assert rows[:40] != rows[40:]


def test_interrupted_anywhere_the_batches_go_on_bit_identically():
    rng = np.random.default_rng(0)
    whole = take(make_batches(), 160)  # over four epochs
    for stop in rng.integers(1, 140, 25):
        first = make_batches()
        take(first, stop)
        state = json.loads(json.dumps(first.get_state()))
        second = make_batches()
        second.set_state(state)
        assert second.get_state() == json.loads(json.dumps(first.get_state()))
        assert_same(take(second, 20), whole[stop : stop + 20])


def test_a_state_is_not_changed_by_later_batches():
    batches = make_batches()
    take(batches, 7)
    state = batches.get_state()
    before = json.dumps(state)
    take(batches, 30)
    assert json.dumps(state) == before


def test_a_state_of_another_run_is_refused():
    state = make_batches().get_state()
    with pytest.raises(ValueError, match="run with seed 5, but this run has 6"):
        make_batches(seed=6).set_state(state)
    with pytest.raises(ValueError, match="batch_size"):
        make_batches(batch_size=8).set_state(state)


class CountedReads(ExampleList):
    """Remembers which examples are read."""

    def __init__(self, examples):
        super().__init__(examples)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_hosts_read_their_own_rows_of_the_same_batches():
    whole, sources = make_batches(), [CountedReads(make_source()) for _ in range(2)]
    hosts = share([make_batches(source) for source in sources])
    assert [len(source.read) for source in sources] == [75, 75]  # each counts a half
    for source in sources:
        source.read.clear()
    for batch in take(whole, 50):
        parts = [next(host) for host in hosts]
        for part, own, others in zip(
            parts, (slice(2), slice(2, 4)), (slice(2, 4), slice(2)), strict=True
        ):
            assert part.keys() == batch.keys()
            for name, values in part.items():
                np.testing.assert_array_equal(values[own], batch[name][own])
                assert values.shape == batch[name].shape
                assert not values[others].any()
    assert [len(source.read) for source in sources] == [100, 100]
    assert not any(host.truncated_inputs != whole.truncated_inputs for host in hosts)
    assert all(host.get_state() == whole.get_state() for host in hosts)


def test_a_run_of_several_hosts_goes_on_on_one():
    state = json.loads(json.dumps(after(share([make_batches(), make_batches()]), 17).get_state()))
    alone = make_batches()
    alone.set_state(state)
    whole = make_batches()
    take(whole, 17)
    assert_same(take(alone, 40), take(whole, 40))


def test_a_source_without_an_index_is_read_by_all():
    class Stream:
        def __len__(self):
            return 150

        def stream(self, **options):
            return make_source().stream(**options)

    host, _ = share([make_batches(Stream()), make_batches(Stream())])
    assert_same(take(host, 20), take(make_batches(), 20))


def share(hosts):
    """Batches of hosts, each of which needs as many rows, one host's after the other's."""
    rows, arrived = 4 // len(hosts), []
    barrier = threading.Barrier(len(hosts))

    def exchange(host):
        def of_all(counted):
            arrived.append((host, counted))
            barrier.wait()
            return np.stack([counted for _, counted in sorted(arrived, key=lambda each: each[0])])

        return of_all

    threads = [
        threading.Thread(
            target=host.share,
            args=(exchange(i), i, len(hosts), lambda _, i=i: range(i * rows, (i + 1) * rows)),
        )
        for i, host in enumerate(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return hosts


def after(hosts, count):
    """The first host, after `count` batches of all."""
    for host in hosts:
        take(host, count)
    return hosts[0]


def test_seed_none_is_file_order():
    source = ExampleList({"inputs": f"{i}", "targets": "x"} for i in range(8))
    first = next(make_batches(source, seed=None))["encoder_input_tokens"][:, 0]
    assert first.tolist() == [ord(digit) for digit in "0123"]


@pytest.mark.parametrize("count", [0, 1, 3, 50, 150])
@pytest.mark.filterwarnings("ignore:inputs longer than")
def test_eval_batches_hold_every_example_once(count):
    examples = make_source(count)
    encoder = Encoder(Letters(), LENGTHS)
    seen = []
    for indices, batch in eval_batches(
        examples, Letters(), batch_size=8, lengths=LENGTHS, window=64
    ):
        tokens, weights = batch["encoder_input_tokens"], batch["decoder_loss_weights"]
        assert len(tokens) == 8
        for index, row in zip(indices, tokens, strict=False):
            assert row[row > 0].tolist() == encoder(examples[index], "inputs")
        assert not tokens[len(indices) :].any()
        assert not weights[len(indices) :].any()
        seen += indices.tolist()
    assert sorted(seen) == list(range(count))


def test_eval_batches_need_no_targets():
    [(indices, batch)] = eval_batches([{"inputs": "a"}], Letters(), batch_size=2, lengths=LENGTHS)
    assert indices.tolist() == [0]
    assert list(batch) == ["encoder_input_tokens"]


def test_cut_examples_are_counted():
    batches = make_batches()
    take(batches, 50)
    assert batches.truncated_inputs > 0 == batches.truncated_targets


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="The training split holds no examples"):
        next(TrainBatches(ExampleList(), Letters(), batch_size=1, lengths=LENGTHS, seed=0))
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        make_batches(batch_size=0)
