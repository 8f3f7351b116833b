"""dbt's events, made only where somebody reads them.

dbt makes a message of every event, two or three for each statement, and only then asks whether a log or a callback
takes it. In a build whose logs begin at ``info`` that is a seventh of the time, for messages that nobody sees.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_debug_events(read: frozenset[str]) -> Iterator[None]:
    """Let dbt make no event of level ``debug`` while this lasts, for runs in which no log takes them.

    Args:
        read: Names of those that are made all the same, for a callback.
    """
    # dbt is slow to import (1 s)
    from dbt_common.events.base_types import DebugLevel
    from dbt_common.events.event_manager import EventManager
    from dbt_common.events.event_manager_client import ctx_set_event_manager, get_event_manager

    def is_unread(event: Any) -> bool:
        return isinstance(event, DebugLevel) and type(event).__name__ not in read

    class Manager(EventManager):
        def fire_event(self, e: Any, level: Any = None, *rest: Any, **named: Any) -> None:
            if level is not None or not is_unread(e):
                super().fire_event(e, level, *rest, **named)

    def make(event: Any, *values: Any, **named: Any) -> None:
        if is_unread(event):
            event.pb_msg = getattr(event.PROTO_TYPES_MODULE, type(event).__name__)()
        else:
            super(DebugLevel, event).__init__(*values, **named)

    manager = get_event_manager()
    ctx_set_event_manager(Manager())
    DebugLevel.__init__ = make  # type: ignore[assignment]
    try:
        yield
    finally:
        del DebugLevel.__init__
        ctx_set_event_manager(manager)
