"""Where things are: the project's folder and the warehouse that its runs write."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubspoke.errors import HubspokeError
from hubspoke.yaml_file import read_yaml


@dataclass(frozen=True)
class Project:
    """A checkout of the dbt project and its warehouse.

    Attributes:
        root: Folder that holds ``dbt_project.yml``.
        warehouse: Folder of everything a run writes; ``HUBSPOKE_WAREHOUSE`` or ``<root>/warehouse``.
    """

    root: Path
    warehouse: Path

    @classmethod
    def find(cls, start: Path | None = None) -> "Project":
        """Find the project that ``start`` (default: the working directory) lies in.

        Raises:
            HubspokeError: Neither ``start`` nor a folder above it holds ``dbt_project.yml``.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "dbt_project.yml").is_file():
                return cls(folder, folder / os.environ.get("HUBSPOKE_WAREHOUSE", "warehouse"))
        raise HubspokeError(
            f"{here} is not in a Hubspoke project: no dbt_project.yml here or above. cd into the project."
        )

    def variables(self) -> dict[str, Any]:
        """Read the values of dbt's variables that ``dbt_project.yml`` sets."""
        content = read_yaml(self.root / "dbt_project.yml")
        given = dict(content.get("vars") or {})
        own = dict(given.get(content["name"]) or {})
        return {**{name: value for name, value in given.items() if not isinstance(value, dict)}, **own}

    def rule_exceptions(self) -> list[list[str]]:
        """Read the lines of ``seeds/rule_exceptions.csv``: model, rule, condition, reason, day."""
        with self.exceptions_file.open(newline="") as file:
            return list(csv.reader(file))[1:]

    @property
    def exceptions_file(self) -> Path:
        """Rows that were let through a rule, one decision a line."""
        return self.root / "seeds" / "rule_exceptions.csv"

    @property
    def base(self) -> "Project | None":
        """The project whose hub this one reads, if it is an environment beside it: for development, or for a trial.

        ``<warehouse>/dev/<name>`` (``hubspoke.development``), ``<warehouse>/trial/<name>`` (``hubspoke.trial``).
        """
        base = Project(self.root, self.warehouse.parent.parent)
        return base if self.warehouse.parent.name in {"dev", "trial"} and base.hub.is_file() else None

    @property
    def is_at_base(self) -> bool:
        """Whether sources stay at what the base was built from: for development they do, for a trial they do not."""
        return self.base is not None and self.warehouse.parent.name == "dev"

    @property
    def home(self) -> Path:
        """Folder of what a warehouse shares with its development environments."""
        return (self.base or self).warehouse

    @property
    def hub(self) -> Path:
        """DuckDB file that dbt builds into; one process at a time has it open.

        With the target ``spark``, what stands for the hub on this side.
        """
        return self.spark_hub if os.environ.get("DBT_TARGET") == "spark" else self.duckdb_hub

    @property
    def duckdb_hub(self) -> Path:
        """DuckDB file of a hub that DuckDB builds."""
        return self.warehouse / "hub.duckdb"

    @property
    def spark_hub(self) -> Path:
        """DuckDB file that stands for a hub on Spark: what its runs have noted, and views over its tables' files."""
        return self.warehouse / "spark.duckdb"

    @property
    def landing(self) -> Path:
        """The landing zone: ``<source>/<table>/<load_id>/``."""
        return self.home / "landing"

    @property
    def release(self) -> Path:
        """The release store, the only thing that spokes read."""
        return self.home / "release"
