"""What Ctrl-C and a polite kill do to a program."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Give an event that is set by Ctrl-C and by a polite kill, so that the program can end in order.

    Yields:
        The event.
    """
    finished = threading.Event()

    def finish(number: int, frame: FrameType | None) -> None:
        finished.set()

    before = {number: signal.signal(number, finish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield finished
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def remembering_stop() -> Iterator[None]:
    """Let Ctrl-C stop what is done meanwhile; at the latest at its end, where other people's code has swallowed it."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else nobody is to stop it, or somebody else has a way to
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if stopped.is_set():
        raise KeyboardInterrupt
