"""Several hosts: the same command on each, as one run over all their devices.

On Cloud TPU, GKE, under SLURM's srun and Open MPI's mpirun the processes find each other. Elsewhere
three variables say how:

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 prompt-tuning train ...
    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 prompt-tuning train ...

All form the same batches. In training, each process reads and tokenises its own devices' rows of
them; in evaluation, and where examples cannot be read one by one (SeqIO's), it reads all. Process 0
writes the prompts, the history and the log; the run's directory must be one that all hosts see.
Where one process ends before its time, all others end too, and say so; the same commands then
continue from the last state.
"""

import atexit
import contextlib
import ctypes
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # the coordinator's address has no public name
from jax.experimental import multihost_utils

from prompt_tuning_jax.devices.interruption import Interrupted

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30  # after so long a silence JAX itself ends the others
_LONG_MILLISECONDS = 1000 * 86400 * 365
_BARRIERS = itertools.count()
_KEY, _GOODBYE = "prompt_tuning_jax/watch", "bye"
_GRACE_SECONDS, _LEAVE_SECONDS = 1.0, 5.0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once every process has come here, so that all see the files written before."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def wait_long_for_all(what: str) -> None:
    """The same, for as long as it takes: an idle process asks the coordinator, and no device."""
    if jax.process_count() > 1:
        name = f"prompt_tuning_jax/{what}/{next(_BARRIERS)}"  # each is used once
        global_state.client.wait_at_barrier(name, _LONG_MILLISECONDS)


def gather(x: np.ndarray) -> np.ndarray:
    """Every process's array, stacked in their order; they have one shape, and all call this."""
    return np.asarray(multihost_utils.process_allgather(x))


def connect(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, where there are others; before anything touches a device.

    Raises:
      ValueError: some of the three variables are set, but not all, or not to numbers.
      ConnectionError: the other processes cannot be found.
    """
    named = {name: environment[name] for name in VARIABLES if environment.get(name)}
    if jax.distributed.is_initialized() or named.get("JAX_NUM_PROCESSES") == "1":
        return
    if not named and not finds_others(environment):
        return
    arguments = _arguments(named) if named else {}
    try:
        jax.distributed.initialize(
            **arguments,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # JAX raises many kinds: no answer, no cluster, no permission
        raise ConnectionError(
            f"This process cannot join the others ({' '.join(str(error).split())[:300]}). Set "
            f"{', '.join(VARIABLES)}, or JAX_NUM_PROCESSES=1 if there are no others."
        ) from error


def finds_others(environment: Mapping[str, str]) -> bool:
    """Whether JAX can tell by itself which processes belong together, and it matters."""
    slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    mpi = environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    kubernetes = "JOB_COMPLETION_INDEX" in environment
    # JAX sets its platforms to "tpu,cpu" on the hosts of a TPU.
    return slurm or mpi or kubernetes or "tpu" in (jax.config.jax_platforms or "")


def _arguments(named: Mapping[str, str]) -> dict[str, str | int]:
    missing = [name for name in VARIABLES if name not in named]
    if missing:
        raise ValueError(f"{', '.join(named)} is set, so {', '.join(missing)} must be set too.")
    address, count, index = (named[name] for name in VARIABLES)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"JAX_PROCESS_ID is {index!r} and JAX_NUM_PROCESSES {count!r}: they must be numbers, "
            "the first from 0 to one less than the second."
        )
    if ":" not in address:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS is {address!r}, but must be HOST:PORT.")
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connects; while inside, a process that ends before its time ends the others too.

    To end before its time is to leave by an exception, or to be killed. `sys.exit` and
    `Interrupted` are not: all do these together.
    """
    connect()
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    watch = Watch()
    try:
        yield
    except (SystemExit, Interrupted):
        watch.say_goodbye()
        raise
    except BaseException as error:
        if _may_be_anothers(error):
            time.sleep(2 * _GRACE_SECONDS)  # if it is, the watch ends this process meanwhile
        watch.alone.set()
        atexit.register(watch.leave)  # when the error has been reported
        raise
    watch.say_goodbye()


def _may_be_anothers(error: BaseException | None) -> bool:
    """Whether an error of JAX's runtime caused it: another process may be gone."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


class Watch:
    """Connections of process 0 with all others: each breaks at once when a process ends."""

    def __init__(self):
        self.alone = threading.Event()  # whether what becomes of the others matters no more
        self._others: dict[int, socket.socket] = {}
        self._count, self._first = jax.process_count(), is_first()
        _delay_aborts()
        logging.getLogger("absl").addFilter(_in_one_line)
        target = self._accept if self._first else self._join
        threading.Thread(target=target, args=(global_state.client,), daemon=True).start()

    def _accept(self, store: Any) -> None:
        with socket.create_server(("", 0)) as server:
            store.key_value_set(_KEY, str(server.getsockname()[1]))
            for _ in range(self._count - 1):
                connection, _ = server.accept()
                number = int.from_bytes(connection.recv(4), "big")
                self._others[number] = connection
                threading.Thread(
                    target=self._follow, args=(number, connection), daemon=True
                ).start()

    def _join(self, store: Any) -> None:
        port = store.blocking_key_value_get(_KEY, 1000 * HEARTBEAT_SECONDS)
        host = global_state.coordinator_address.rpartition(":")[0].strip("[]")
        try:
            connection = socket.create_connection((host, int(port)), HEARTBEAT_SECONDS)
        except OSError as error:
            logging.warning(
                "Process 0 cannot be watched at %s:%s (%s); should it end, JAX says so in its own "
                "words.", host, port, error,
            )  # fmt: skip
            return
        connection.settimeout(None)
        connection.sendall(jax.process_index().to_bytes(4, "big"))
        self._others[0] = connection
        self._follow(0, connection)

    def _follow(self, number: int, connection: socket.socket) -> None:
        """Waits for a word of goodbye, for the number of a lost process, or for the end."""
        word = ""
        with contextlib.suppress(OSError):  # a connection that is reset has ended, too
            word = connection.makefile().readline().strip()
        del self._others[number]
        if word == _GOODBYE:
            return
        time.sleep(_GRACE_SECONDS)  # an error of this process's own comes first
        if self.alone.is_set():
            return
        self.alone.set()
        lost = word or number
        print(
            f"error: process {lost} of {self._count} has ended before its time; its own log says "
            "why. All processes stop here; the same commands continue from the last state.",
            file=sys.stderr,
        )
        self.leave(str(lost))

    def say_goodbye(self) -> None:
        """This process has done its part."""
        self.alone.set()
        self._tell(_GOODBYE)

    def leave(self, lost: str | None = None) -> None:
        """Ends this process at once; process 0 lets the others end before it."""
        self._tell(lost or str(jax.process_index()))
        deadline = time.monotonic() + _LEAVE_SECONDS
        while self._first and self._others and time.monotonic() < deadline:
            time.sleep(0.1)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _tell(self, word: str) -> None:
        for connection in list(self._others.values()):
            with contextlib.suppress(OSError):
                connection.sendall(f"{word}\n".encode())


def _delay_aborts() -> None:
    """JAX aborts as soon as process 0 is gone; with a delay, what `Watch` has to say comes first.

    A handler is called with the signal's number. `sleep` may be called in one: it waits for those
    6 seconds, and the abort then takes its course.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _in_one_line(record: logging.LogRecord) -> bool:
    """Keeps what Orbax logs of an error in its background thread, which is raised later anyway."""
    record.exc_info = None
    return True
