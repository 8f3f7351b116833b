"""Events of dbt that nobody reads are not made; all others are as dbt makes them."""

from typing import Any

import pytest
from dbt.adapters.events.types import ConnectionUsed, RollbackFailed
from dbt.events.types import FinishedCleanPaths, LogTestResult
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager_client import add_callback_to_manager, get_event_manager
from dbt_common.events.functions import fire_event

from hubspoke.dbt_events import without_debug_events


def fire() -> None:
    fire_event(ConnectionUsed(conn_type="duckdb", conn_name="one"))
    fire_event(RollbackFailed(conn_name="two", exc_info="why"))
    fire_event(FinishedCleanPaths())
    fire_event(LogTestResult(name="rule", status="pass", index=1, num_models=2), level=EventLevel.INFO)


def test_debug_events_are_made_for_those_who_read_them_only() -> None:
    told: list[Any] = []
    before = get_event_manager()
    with without_debug_events(frozenset({"RollbackFailed"})):
        add_callback_to_manager(told.append)
        fire()
    assert [event.info.name for event in told] == ["RollbackFailed", "FinishedCleanPaths", "LogTestResult"]
    assert (told[0].data.conn_name, told[0].data.exc_info, told[2].data.name) == ("two", "why", "rule")
    assert get_event_manager() is before


def test_afterwards_all_are_made_again() -> None:
    told: list[Any] = []
    with pytest.raises(KeyError), without_debug_events(frozenset()):
        raise KeyError
    manager: Any = get_event_manager()
    manager.callbacks.append(told.append)
    try:
        fire()
    finally:
        manager.callbacks.remove(told.append)
    assert [event.info.name for event in told][:2] == ["ConnectionUsed", "RollbackFailed"]
    assert told[0].data.conn_name == "one"
