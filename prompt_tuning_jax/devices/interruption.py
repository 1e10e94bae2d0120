"""Ctrl-C, SIGTERM and SIGHUP: a run ends its step and saves before it goes.

A second Ctrl-C ends at once. In a command that holds even while a program is compiled, when Python
itself runs no handler.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DEAF = "_xla_gc_callback"  # JAX's, called by the garbage collector, which ignores errors
_TELL_AFTER = 1.0  # seconds that a command may take to end before it says how to end it at once


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, raised once all is saved; the processes of a run raise it together."""


class StopSignal:
    """Which signal asked a run to stop, if one did.

    Attributes:
      number: the signal's; None as long as there was none. Once the call below is true, it is the
        same in all processes.
    """

    def __init__(self):
        self.number: int | None = None

    def __call__(self, step: int) -> bool:
        """Whether to stop after this step: true at the same step in all processes.

        Call it at every step with the step's number. It is enough that one of them had the signal.
        """
        if jax.process_count() == 1:
            return self.number is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        numbers = multihost_utils.process_allgather(np.int32(self.number or 0))
        self.number = int(numbers.max()) or signal.SIGTERM
        return True

    def leave(self) -> NoReturn:
        """Ends as the signal would have: by `Interrupted`, or with the signal's exit status."""
        if self.number == signal.SIGINT:
            raise Interrupted
        sys.exit(128 + self.number)

    def note(self, number: int, _: Any) -> None:
        """The handler. From here on, Ctrl-C is Python's again."""
        self.number = self.number or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1 and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)  # of which JAX tells the other processes


@contextlib.contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """While inside, a signal of STOPS does not end the process: it is what is given here.

    What is ignored (as SIGHUP under nohup) stays so. Outside the main thread signals are another's
    business. With several processes JAX itself looks after SIGTERM.
    """
    stop, before = StopSignal(), {}
    if threading.current_thread() is threading.main_thread():
        own = STOPS if jax.process_count() == 1 else STOPS[1:]
        for number in own:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop.note)
    try:
        yield stop
        if stop.number == signal.SIGINT:  # too late to stop anything; the caller is told
            raise Interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def second_ends_at_once() -> Iterator[None]:
    """While inside, a second Ctrl-C ends the process with status 130, whatever it is doing.

    A thread hears of every signal as soon as it comes, through a pipe.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, handler)


def _interrupt(number: int, frame: Any) -> None:
    """Python's own handler, but where what it raises would be lost: then a moment later."""
    if frame is None or frame.f_code.co_name != _DEAF:
        signal.default_int_handler(number, frame)
    thread = ctypes.c_ulong(threading.main_thread().ident)
    raised = ctypes.py_object(KeyboardInterrupt)
    later = ctypes.pythonapi.PyThreadState_SetAsyncExc, (thread, raised)
    threading.Timer(0.05, *later).start()


def _watch(reader: int) -> None:
    interrupts = 0
    with open(reader, "rb", buffering=0) as signals:
        while number := signals.read(1):
            interrupts += number[0] == signal.SIGINT
            if interrupts > 1:
                os._exit(128 + signal.SIGINT)
            if number[0] == signal.SIGINT and not select.select([signals], [], [], _TELL_AFTER)[0]:
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print("Ending; Ctrl-C again ends at once.", file=sys.stderr, flush=True)
