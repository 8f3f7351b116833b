"""A REST interface, read page by page into a file of JSON lines.

dlt's client knows how to ask: pages, authentication, repeating what failed, and waiting as long as a server asks for.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubspoke.connections import Address
from hubspoke.errors import HubspokeError
from hubspoke.sources import Pages, SourceTable

TRIES_WHILE_MOVING = 3
"""Times that a listing is read in which a row came on two pages, as it moved meanwhile."""


def download(
    table: SourceTable, source: Address, target: Path, since: str | None, progress: Callable[[int], None]
) -> int:
    """Write the rows of a table to a file, one JSON object a line.

    Args:
        table: What to ask for.
        source: Where.
        target: The file.
        since: Ask for rows whose cursor is at least this; None: for all.
        progress: Told how many rows there are so far.

    Returns:
        The rows.

    Raises:
        HubspokeError: The interface refuses, fails more often than is tried, or its pages do not hold still.
    """
    if table.rest is None:
        raise HubspokeError(f"{table.name}: say what to ask for: rest: {{ path: {table.table} }} ({table.declared_in})")
    for _ in range(TRIES_WHILE_MOVING):
        rows = _read(table, source, target, since, progress)
        if rows is not None:
            return rows
    raise HubspokeError(
        f"{table.name}: rows came on two pages each time it was read, as the listing moves while it is. Nothing was "
        "landed; page by cursor, or sort by something that stays"
    )


def _read(
    table: SourceTable, source: Address, target: Path, since: str | None, progress: Callable[[int], None]
) -> int | None:
    """Read all pages; None if a row came on two of them."""
    # slow to import (1 s)
    from dlt.sources.helpers.requests import Client
    from dlt.sources.helpers.rest_client.client import RESTClient
    from requests import RequestException

    rest = table.rest
    assert rest is not None  # noqa: S101 -- the caller looked
    session = Client(
        raise_for_status=False,  # RESTClient does, and warns of a session that does, too
        request_max_attempts=table.retries,
        request_backoff_factor=0.5,
        retry_condition=_is_cut_off,
    ).session
    client = RESTClient(source.url, session=session, auth=_auth(table, source), paginator=_paginator(rest.pages))
    parameters: dict[str, Any] = dict(rest.parameters)
    if rest.pages.size and rest.pages.size_parameter:
        parameters[rest.pages.size_parameter] = rest.pages.size
    if since is not None and rest.since:
        parameters[rest.since] = since
    pause = 1 / table.ingest.requests_per_second if table.ingest.requests_per_second else 0.0
    seen: dict[str, int] = {}
    rows, asked = 0, 0.0
    try:
        with target.open("w") as file:
            for number, page in enumerate(client.paginate(rest.path, params=parameters, data_selector=rest.records)):
                for row in page:
                    if isinstance(row, dict) and table.key:
                        identity = json.dumps([row.get(name) for name in table.key])
                        if seen.setdefault(identity, number) != number:
                            return None
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows += 1
                progress(rows)
                time.sleep(max(0.0, asked + pause - time.monotonic()))
                asked = time.monotonic()
    except RequestException as error:
        answer = error.response
        said = f"it answers {answer.status_code}" if answer is not None else source.scrub(error)
        hint = "; look at the secret" if answer is not None and answer.status_code in (401, 403) else ""
        raise HubspokeError(f"{table.name}: connection {source.name}, {rest.path}: {said}{hint}") from None
    except ValueError as error:
        raise HubspokeError(f"{table.name}: {rest.path}: the answer cannot be used ({source.scrub(error)})") from None
    return rows


def _is_cut_off(response: Any, error: BaseException | None) -> bool:
    """Whether an answer that counts as a success is no whole JSON."""
    if response is None or error is not None or not response.ok:
        return False
    try:
        response.json()
    except ValueError:
        return True
    return False


def _auth(table: SourceTable, source: Address) -> Any:
    from dlt.sources.helpers.rest_client.auth import APIKeyAuth, BearerTokenAuth, HttpBasicAuth

    secret = source.parameters.get("password", "")
    if table.ingest.auth != "none" and not secret:
        raise HubspokeError(f"connection {source.name} has no secret, and {table.name} says auth: {table.ingest.auth}")
    match table.ingest.auth:
        case "bearer":
            return BearerTokenAuth(token=secret)
        case "basic":
            return HttpBasicAuth(source.parameters.get("user", ""), secret)
        case "key":
            return APIKeyAuth(name=table.ingest.auth_name, api_key=secret, location="header")
        case _:
            return None


def _paginator(pages: Pages) -> Any:
    from dlt.sources.helpers.rest_client import paginators

    match pages.by:
        case "page":
            return paginators.PageNumberPaginator(base_page=pages.first, page_param=pages.parameter, total_path=None)
        case "offset":
            return paginators.OffsetPaginator(
                limit=pages.size or 0,  # declared: Pages asks for it
                offset_param=pages.parameter,
                limit_param=pages.size_parameter or None,
                total_path=None,
            )
        case "cursor":
            return paginators.JSONResponseCursorPaginator(cursor_path=pages.next, cursor_param=pages.parameter)
        case "link":
            return paginators.JSONLinkPaginator(next_url_path=pages.next)
        case "header":
            return paginators.HeaderLinkPaginator()
        case _:
            return paginators.SinglePagePaginator()
