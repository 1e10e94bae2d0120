"""One run in a directory at a time, also where the directory is on a network file system.

The first process of a run keeps a file in its directory, `run.lock`, that says who it is. Where
that process can be seen, the file of a dead one counts for nothing. From elsewhere (another host or
container) it counts as long as it is touched, every few seconds, and is then waited for a little.
Locks of the kernel (flock) are not used: not every network file system has them.
"""

import contextlib
import dataclasses
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from prompt_tuning_jax.checkpoints.atomic import WriteError, naming
from prompt_tuning_jax.devices import hosts
from prompt_tuning_jax.errors import spelled

NAME = "run.lock"
TOUCH_SECONDS = 5.0
# Some network file systems show another host's changes a little late.
DEAD_SECONDS = 30.0
_PROC = Path("/proc")


@dataclasses.dataclass(frozen=True)
class Owner:
    """A process, as `run.lock` describes it.

    Attributes:
      place: the kernel's start and the namespace of processes, within which `pid` is unique; empty
        where the system does not say.
      started: when the process started, in the kernel's ticks, as `pid` may be used again.
      since: when it took the lock, as text.
      token: one of its own, which no other lock has.
    """

    host: str
    pid: int
    place: str
    started: str
    since: str
    token: str

    @classmethod
    def this(cls) -> "Owner":
        now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        pid = os.getpid()
        started = _started(pid) or ""
        return cls(socket.gethostname(), pid, _place(), started, now, uuid.uuid4().hex)

    def runs(self) -> bool | None:
        """Whether it does; None where this process cannot see it, alive or not."""
        if not self.place or (self.host, self.place) != (socket.gethostname(), _place()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, whose times may be hidden
            pass
        started = _started(self.pid)
        return None if started is None else started == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class RunLock:
    """The lock of one directory, taken by `take` and given back by `release`."""

    def __init__(self, directory: Path):
        self.path = directory / NAME
        self._owner = Owner.this()
        self._done = threading.Event()

    def take(self) -> None:
        """Takes it, or waits until it is known whether its owner is alive.

        Raises:
          ValueError: another run has it.
          OSError: the directory cannot be written to.
        """
        while not self._create():
            held = _read(self.path)
            if held is None:  # given back in between
                continue
            owner, touched = held
            runs = None if owner is None else owner.runs()
            if self._touched(touched) if runs is None else runs:
                raise ValueError(
                    f"{self.path.parent} is being written by another run ({owner or 'unknown'}): "
                    f"wait for its end, or choose another {spelled('model_dir')}."
                )
            self._remove(owner)
        threading.Thread(target=self._keep, daemon=True).start()

    def check(self) -> None:
        """Refuses to go on where the directory is another's now, or is gone.

        Raises:
          ValueError: it is, as after a long sleep of this computer.
        """
        held = _read(self.path)
        if held is None:  # one that starts may have it aside for a moment
            time.sleep(0.1)
            held = _read(self.path)
        if held is None:
            raise ValueError(
                f"{self.path.parent} has vanished, or its {NAME}: this run ends here. Put it back, "
                f"or start in another {spelled('model_dir')}."
            )
        if held[0] != self._owner:
            raise ValueError(
                f"{self.path.parent} was taken over by another run ({held[0]}): this run ends here."
            )

    def release(self) -> None:
        self._done.set()
        with contextlib.suppress(OSError):
            self._remove(self._owner)

    def _create(self) -> bool:
        """Writes the file whole, if there is none: it is never seen half-written."""
        own = self.path.with_name(f".{NAME}.{self._owner.token}")
        text = json.dumps(dataclasses.asdict(self._owner))
        try:
            with naming(self.path.parent):
                own.write_text(text)
            os.link(own, self.path)
        except FileExistsError:
            return False
        except WriteError:
            raise
        except OSError:
            return self._create_without_links(text)
        finally:
            with contextlib.suppress(OSError):
                own.unlink()
        return True

    def _create_without_links(self, text: str) -> bool:
        """For file systems that have no links."""
        try:
            file = open(self.path, "x")  # noqa: SIM115  what is there already is no failed write
        except FileExistsError:
            return False
        with naming(self.path.parent), file:
            file.write(text)
        return True

    def _touched(self, before: float) -> bool:
        """Whether somebody touches it: waits until it is, or has not been for DEAD_SECONDS."""
        own = self.path.with_name(f".{NAME}.{self._owner.token}")
        try:
            while True:
                own.write_text("")
                os.utime(own)
                held = _read(self.path)
                if held is None:
                    return False
                if held[1] != before:
                    return True
                # Both times are by the clock of the file system.
                if own.stat().st_mtime - before > DEAD_SECONDS:
                    return False
                time.sleep(min(0.2, TOUCH_SECONDS))
        finally:
            with contextlib.suppress(OSError):
                own.unlink()

    def _remove(self, owner: Owner | None) -> None:
        """Takes the file away if it is still this owner's, else leaves it where it is."""
        held = _read(self.path)
        if held is None or held[0] != owner:
            return
        aside = self.path.with_name(f".{NAME}.{uuid.uuid4().hex}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        held = _read(aside)
        if held is not None and held[0] != owner:  # another was faster just now: it is that one's
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._done.wait(TOUCH_SECONDS):
            with contextlib.suppress(OSError):
                held = _read(self.path)
                if held is not None and held[0] == self._owner:
                    os.utime(self.path)


@contextlib.contextmanager
def locked(directories: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """While inside, no other run writes to these; of several processes the first takes the locks.

    Gives a function that raises a ValueError where a directory is this run's no more.

    Raises:
      ValueError: another run does, in all processes.
    """
    locks = [RunLock(directory) for directory in directories] if hosts.is_first() else []
    with contextlib.ExitStack() as taken:
        try:
            for lock in locks:
                lock.take()
                taken.callback(lock.release)
            refused = False
        except (ValueError, OSError):
            _agree(refused=True)
            raise
        if _agree(refused):
            raise ValueError(
                f"Process 0 could not take {spelled('model_dir')} {directories[0]}: its own log "
                "says why."
            )
        yield functools.partial(_check_all, locks)


def _check_all(locks: Sequence[RunLock]) -> None:
    for lock in locks:
        lock.check()


def _read(path: Path) -> tuple[Owner | None, float] | None:
    """A lock's owner, None where that cannot be read, and when it was touched; None for no lock.

    A file that is opened is asked for again from the host that has it.
    """
    try:
        with open(path) as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Owner(**json.loads(text)), touched
    except (ValueError, TypeError):
        return None, touched


def _agree(refused: bool) -> bool:
    """Whether the first process was refused; all call it."""
    return jax.process_count() > 1 and bool(hosts.gather(np.int32(refused))[0])


def _place() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started; empty where it has ended and waits to be seen, None if unknown."""
    try:
        # Its name, in parentheses, may hold anything.
        state, *facts = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else facts[18]
