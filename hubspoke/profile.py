"""The profile's target, as far as the hub can be opened without dbt, whose import takes longer than a small build."""

import os
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined, TemplateError

from hubspoke.project import Project
from hubspoke.yaml_file import read_yaml

UNDERSTOOD = {"type", "path", "schema", "database", "threads", "config_options", "settings", "plugins"}
"""What a target may hold to be opened here: extensions, secrets and attached databases are dbt's."""


def read_target(project: Project) -> dict[str, Any] | None:
    """Read the target that dbt would take.

    Returns:
        The target with its Jinja rendered; None if there is more to it than is understood here.
    """
    target = rendered_target(project)
    return target if target and target.get("type") == "duckdb" and target.keys() <= UNDERSTOOD else None


def rendered_target(project: Project, name: str = "") -> dict[str, Any] | None:
    """Read a target of the profile, by default the one that dbt would take.

    Returns:
        The target with its Jinja rendered; None if there is none such, or dbt has to say what is wrong with it.
    """
    file = Path(os.environ.get("DBT_PROFILES_DIR") or project.root) / "profiles.yml"
    if not file.is_file():
        return None
    try:
        own = read_yaml(project.root / "dbt_project.yml")["profile"]
        profile = read_yaml(file)[os.environ.get("DBT_PROFILE") or own]
        name = name or os.environ.get("DBT_TARGET") or _rendered(profile["target"])
        target: dict[str, Any] = _rendered(profile["outputs"][name])
    except (yaml.YAMLError, TemplateError, KeyError, TypeError):
        return None  # dbt says what is wrong
    return target


def _env_var(name: str, default: str | None = None) -> str:
    if name not in os.environ and default is None:
        raise KeyError(name)
    return os.environ.get(name, default or "")


def _rendered(value: Any) -> Any:
    """Render every text of a part of a profile, with what dbt gives it: variables of the environment."""
    if isinstance(value, dict):
        return {key: _rendered(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rendered(part) for part in value]
    if isinstance(value, str) and "{" in value:
        return Environment(undefined=StrictUndefined, autoescape=False).from_string(value).render(env_var=_env_var)  # noqa: S701
    return value
