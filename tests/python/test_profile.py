"""The profile is read as dbt reads it, or left to dbt."""

from pathlib import Path

import pytest
from conftest import ROOT

from hubspoke.profile import read_target
from hubspoke.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("DBT_PROFILES_DIR", "DBT_PROFILE", "DBT_TARGET", "HUBSPOKE_MEMORY_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "elsewhere")
    (tmp_path / "dbt_project.yml").write_text((ROOT / "dbt_project.yml").read_text())
    (tmp_path / "profiles.yml").write_text((ROOT / "profiles/profiles.yml").read_text())
    return Project(tmp_path, tmp_path / "elsewhere")


def test_the_projects_own_target_is_what_dbt_would_take(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    target = read_target(project)
    assert target is not None
    assert target["path"] == "elsewhere/hub.duckdb"
    assert target["settings"] == {"TimeZone": "UTC"}
    assert target["config_options"] == {
        "temp_directory": "elsewhere/tmp",
        "memory_limit": "3GB",
        "preserve_insertion_order": False,
        "storage_compatibility_version": "latest",
    }
    monkeypatch.setenv("HUBSPOKE_MEMORY_LIMIT", "1GB")
    monkeypatch.setenv("DBT_TARGET", "ci")
    ci = read_target(project)
    assert ci is not None
    assert ci["config_options"]["memory_limit"] == "1GB"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type: duckdb", "type: duckdb\n      attach: [{ path: other.duckdb }]"),
        ("type: duckdb", "type: spark"),
        ("threads: 4 # a", "threads: \"{{ env_var('NOBODY_SET_IT') | as_number }}\" # a"),
        ("target: dev", "target: \"{{ env_var('NOBODY_SET_IT') }}\""),
        ("hubspoke:\n  target", "another:\n  target"),
    ],
)
def test_what_is_not_understood_is_left_to_dbt(project: Project, old: str, new: str) -> None:
    file = project.root / "profiles.yml"
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))
    assert read_target(project) is None


def test_without_a_profile_in_the_project_dbt_looks_for_one(project: Project) -> None:
    (project.root / "profiles.yml").unlink()
    assert read_target(project) is None
