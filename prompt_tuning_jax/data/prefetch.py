"""Batches made in a background thread while the device computes."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from prompt_tuning_jax.data.encoding import Batch

_POLL_SECONDS = 0.1


class Batches(Protocol):
    """Batches without end, and where they stand."""

    def __iter__(self) -> Iterator[Batch]: ...

    def get_state(self) -> Any:
        """The position after the last batch, as JSON values."""


class Prefetcher:
    """Iterates over (batch, state after that batch), up to `size` of them made ahead.

    The state is what to save once the batch has been trained on; the position of the thread itself
    is further on. An exception in the data appears at the `next` that would have given its batch.

        with Prefetcher(batches) as prefetched:
            for batch, state in prefetched: ...
    """

    def __init__(self, batches: Batches, size: int = 2):
        self._batches = batches
        self._queue: queue.Queue[Any] = queue.Queue(size)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for batch in self._batches:
                if not self._put((batch, self._batches.get_state())):
                    return
            self._put(StopIteration())
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> bool:
        """Waits for room; False once the prefetcher has been closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[tuple[Batch, dict[str, Any]]]:
        return self

    def __next__(self) -> tuple[Batch, dict[str, Any]]:
        if self._closed.is_set():
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, Exception):
            self.close()
            raise item
        return item

    def close(self) -> None:
        """Stops the thread and waits for it; safe to call twice."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
