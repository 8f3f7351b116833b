"""A fork that is a command is that command: for all that other tests see of it, and when it does not end."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import BIN, FORGE


@pytest.mark.parametrize("command", [["hubspoke", "build"], ["dbt", "--bild"]])
def test_a_fork_says_what_the_command_says_and_ends_as_it_ends(command: list[str], tmp_path: Path) -> None:
    given = [str(BIN / command[0]), *command[1:]]
    environment = {**os.environ, "NO_COLOR": "1", "DBT_LOG_FORMAT": "json", "DBT_LOG_LEVEL": "none", "COLUMNS": "90"}
    expected = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = FORGE.run(given, tmp_path, environment, 60)
    assert (found.returncode, found.stdout, found.stderr) == (expected.returncode, expected.stdout, expected.stderr)


def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").touch()
    with pytest.raises(subprocess.TimeoutExpired):
        FORGE.run([str(BIN / "hubspoke"), "run", "--every", "60"], tmp_path, dict(os.environ), 0.2)
    assert FORGE.run([str(BIN / "hubspoke"), "--version"], tmp_path, dict(os.environ), 60).returncode == 0
