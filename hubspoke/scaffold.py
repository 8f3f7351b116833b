"""A new source: asked what it looks like, and written down as the project writes its sources."""

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from hubspoke.errors import HubspokeError
from hubspoke.probe import probe
from hubspoke.project import Project
from hubspoke.sources import Ingest, SourceTable, resolve

NAME = re.compile(r"[a-z][a-z0-9_]*")


def new_source(
    project: Project, source: str, table: str, owner: str, ingest: dict[str, Any], meta: dict[str, Any]
) -> list[Path]:
    """Ask a table of a source for its columns, and write the source's YAML, a staging model and its YAML.

    Args:
        project: The project.
        source: Name of the source.
        table: Name of its table.
        owner: Who answers for the data.
        ingest: What stands under ``meta.ingest``.
        meta: What stands under the table's ``meta``.

    Returns:
        The files written.

    Raises:
        HubspokeError: A name is none, the source is there already, or it cannot be reached; nothing is written.
    """
    for name in (source, table):
        if not NAME.fullmatch(name):
            raise HubspokeError(f"{name} is no name here: lower case letters, digits and _, for example web_shop")
    folder = project.root / "models/hub/staging" / source
    file = folder / f"_{source}__sources.yml"
    model = f"stg_{source}__{table}"
    if file.exists():
        raise HubspokeError(f"source {source} is there already: add the table to {file.relative_to(project.root)}")
    declared = Ingest.model_validate(ingest)
    asked = SourceTable(
        source=source,
        table=table,
        declared_in=file.relative_to(project.root),
        ingest=declared,
        folder=resolve(project.root, declared.location) if declared.location is not None else "",
        **meta,
    )
    with tempfile.TemporaryDirectory(prefix="hubspoke-") as scratch:
        columns = probe(project, asked, Path(scratch))
    if not columns:
        raise HubspokeError(f"topic {asked.topic} has no message yet that would say its columns; try again later")
    audit = {
        "_load_id": ("varchar", "Load that landed the row."),
        "_loaded_at": ("timestamp", "UTC time of that load."),
    }
    if asked.is_stream:
        audit |= {
            "_partition": ("integer", "Partition of the topic that had the message."),
            "_offset": ("bigint", "The message's place in it."),
            "_sent_at": ("timestamp", "The broker's UTC time of the message."),
        }
    described = {name: (kind.lower(), f"To be described ({name}).") for name, kind in columns.items()} | audit
    content = {
        "sources": [
            {
                "name": source,
                "description": f"To be described ({source}).",
                "schema": f"landing_{source}",
                "config": {"meta": {"owner": owner, "ingest": ingest}},
                "tables": [
                    {
                        "name": table,
                        "description": f"To be described ({table}).",
                        **({"config": {"meta": meta}} if meta else {}),
                        "columns": [
                            {"name": name, "data_type": kind, "description": text}
                            for name, (kind, text) in described.items()
                        ],
                    }
                ],
            }
        ]
    }
    renamed = {name: re.sub(r"\W+", "_", name).strip("_").lower() if name not in audit else name for name in described}
    selected = [
        (f'"{name}"' if not NAME.fullmatch(name.lstrip("_")) else name) + (f" as {new}" if name != new else "")
        for name, new in renamed.items()
    ]
    sql = (
        f"with {table} as (\n\n    select * from {{{{ source('{source}', '{table}') }}}}\n\n),\n\n"
        "final as (\n\n    select\n        " + ",\n        ".join(selected) + f"\n    from {table}\n\n)\n\n"
        "select * from final\n"
    )
    model_content = {
        "models": [
            {
                "name": model,
                "description": f"To be described ({table}), typed. Grain: one row per row of the source.",
                "columns": [{"name": new, "description": described[name][1]} for name, new in renamed.items()],
            }
        ]
    }
    written = {
        file: _yaml(content),
        folder / f"{model}.sql": sql,
        folder / f"{model}.yml": _yaml(model_content),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in written.items():
        path.write_text(text)
    return list(written)


class _Dumper(yaml.SafeDumper):
    """Writes lists below their key, as the project does."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _yaml(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=118)
