"""Batches made in a background thread: their states, their errors, and its end."""

import threading

import pytest
from test_batches import assert_same, make_batches

from prompt_tuning_jax.data.batches import BLOCK
from prompt_tuning_jax.data.prefetch import Prefetcher
from prompt_tuning_jax.data.task import ExampleList


def test_prefetched_states_belong_to_their_batches():
    plain = make_batches()
    with Prefetcher(make_batches()) as prefetched:
        for batch, state in (next(prefetched) for _ in range(30)):
            assert_same([batch], [next(plain)])
            assert state == plain.get_state()


def test_prefetcher_passes_errors_on_and_stops_its_thread():
    source = ExampleList([{"inputs": "a", "targets": "b"}] * BLOCK + [{"inputs": "a"}])
    prefetched = Prefetcher(make_batches(source, batch_size=BLOCK // 2, seed=None))
    for _ in range(2):
        next(prefetched)
    with pytest.raises(ValueError, match="no 'targets' field"):
        next(prefetched)
    with pytest.raises(StopIteration):
        next(prefetched)
    with Prefetcher(make_batches()):
        assert "prefetch" in {thread.name for thread in threading.enumerate()}
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}
