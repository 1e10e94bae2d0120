"""Scalars for TensorBoard, on the disk as soon as they are given.

tensorboardX's own writer hands them to a thread, which dies of the first error without a word to
the run, that then waits for it for ever.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from prompt_tuning_jax.checkpoints.atomic import naming


class ScalarWriter:
    """A new event file in a directory.

    Args:
      start: the step that the run stands at; TensorBoard forgets what earlier files say of later
        ones.

    Raises:
      OSError: the file cannot be written, here and in the methods.
    """

    def __init__(self, directory: Path, start: int):
        self._directory = directory
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._events: EventsWriter | None = EventsWriter(str(directory / "events"))
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a point of each of these curves."""
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, float(value))))

    def close(self) -> None:
        """May be called again."""
        events, self._events = self._events, None
        if events is not None:
            with naming(self._directory):
                events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming(self._directory):
            self._events.write_event(event)
            self._events.flush()
