"""Hubspoke: a hub-and-spoke data warehouse beside a dbt project.

import hubspoke
hubspoke.connect("ml").sql("select …").pandas()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubspoke.client import Connection, Result, connect

__all__ = ["Connection", "Result", "connect"]


def __getattr__(name: str) -> Any:
    """Import the client when it is first asked for: the commands do without it."""
    if name in __all__:
        from hubspoke import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
