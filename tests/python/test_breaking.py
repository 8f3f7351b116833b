"""Whether an edit is told to break what others read, on a set that was labelled by running it over data."""

from pathlib import Path
from typing import Any

import yaml

from hubspoke.breaking import judge

EDITS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "edits.yml").read_text())
MISSED = {"conditions swapped", "inlined"}


def is_called_breaking(edit: dict[str, Any]) -> bool:
    return judge(edit["before"], edit["after"], edit["columns_before"], edit["columns_after"]).is_breaking


def test_no_edit_that_breaks_is_called_safe_and_few_that_do_not_are_called_breaking() -> None:
    called_safe = [edit["name"] for edit in EDITS if edit["breaking"] and not is_called_breaking(edit)]
    called_breaking = [edit["name"] for edit in EDITS if not edit["breaking"] and is_called_breaking(edit)]
    assert len(EDITS) == 100
    assert called_safe == []
    assert len(called_breaking) <= 2, called_breaking
