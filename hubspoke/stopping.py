"""Programs that run until somebody stops them."""

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
