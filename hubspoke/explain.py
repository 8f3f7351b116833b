"""``hubspoke explain``: how a model takes in new data, and why so."""

from collections.abc import Iterator
from difflib import get_close_matches

from hubspoke.errors import HubspokeError
from hubspoke.lineage import relation_key
from hubspoke.maintenance import Maintenance, NotMaintainable
from hubspoke.manifest import Node, meta, parse_project
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.refresh import Relations, left_to_dbt
from hubspoke.release import last_builds
from hubspoke.versions import is_view


def explain(project: Project, name: str) -> list[str]:
    """Tell how a model takes in new data.

    Args:
        project: The project.
        name: Name of the model.

    Returns:
        Lines for a person.

    Raises:
        HubspokeError: There is no such model, or it has not been built.
    """
    manifest = parse_project(project.root)
    models = {model["name"]: model for model in manifest.models}
    if name not in models:
        near = get_close_matches(name, models, 1)
        raise HubspokeError(f"there is no model {name}{f'; did you mean {near[0]}?' if near else ''}")
    model = models[name]
    with open_hub(project) as hub:
        builds = last_builds(hub)
        if model["unique_id"] not in builds:
            raise HubspokeError(f"{name} has not been built, and is told by what was. Run: hubspoke build -s {name}")
        relations = Relations(manifest, builds, hub)
    if is_view(model):
        return [f"{name} is a view: it shows what it reads, as that is."]
    if obstacle := left_to_dbt(manifest, model):
        return [f"{name} {obstacle}: dbt builds it as a whole, and with it all else that a build has to do."]
    for test in manifest.tests:
        if test.get("attached_node") == model["unique_id"] and meta(test).get("on_failure") == "drop":
            return [
                f"{name} is computed as a whole when what it reads changes: {test['name']} drops rows of it for good."
            ]
    keys = manifest.tested_key(model)[0]
    return list(_by_relation(model, relations, builds[model["unique_id"]].compiled, keys))


def _by_relation(model: Node, relations: Relations, compiled: str, keys: tuple[str, ...]) -> Iterator[str]:
    yield f"{model['name']}, when rows change in"
    stored = relations.types[relation_key(model)]
    sql = relations.written_out(compiled)
    known = {relation: relations.nodes[relation] for relation in relations.read_by(sql) if relation in relations.nodes}
    width = max((len(_called(node)) for node in known.values()), default=0)
    for relation, node in sorted(known.items(), key=lambda item: _called(item[1])):
        yield f"  {_called(node):<{width}}  {_how(relation, relations, sql, keys, stored)}"


def _called(node: Node) -> str:
    return f"{node['source_name']}.{node['name']}" if "source_name" in node else str(node["name"])


def _how(relation: str, relations: Relations, sql: str, keys: tuple[str, ...], stored: dict[str, str]) -> str:
    added = ""
    try:
        query = relations.query(sql)
        if relations.alone(query, [relation]) and (query.is_by_row(relation) or query.united(relation, stored)):
            added = "; new rows are just added"
        maintenance = Maintenance(query, {relation}, keys)
    except NotMaintainable as reason:
        return f"is computed as a whole: {reason}{added}"
    told = "found by a join to those" if maintenance.by_join else "as those"
    return f"by change: the rows of the same {', '.join(maintenance.key)}, {told}{added}"
