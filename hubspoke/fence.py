"""The rules of the house that dbt does not check by itself: which room reads which, names, contracts, personal data.

Each rule is a function from the manifest, or from that and compiled SQL, to its violations; ``RULES`` and
``COMPILED_RULES`` list them. dbt keeps the rest: a mart that
refers to a core model does not parse, and a contract that does not match fails the build.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlglot import exp

from hubspoke.errors import HubspokeError
from hubspoke.lineage import Lineage, parse, relation_key, table_key
from hubspoke.manifest import Manifest, Node, folders, meta, spoke_of
from hubspoke.orders import faults


@dataclass(frozen=True)
class Violation:
    """One breach of one rule, with the file to open and what to do there."""

    rule: str
    file: str
    message: str

    def __str__(self) -> str:
        """``file: rule: message``."""
        return f"{self.file}: {self.rule}: {self.message}"


READS = {
    "staging": {"source"},
    "core": {"staging", "intermediate", "core", "seed"},
    "intermediate": {"staging", "intermediate", "core", "seed"},
    "facade": {"core"},
    "marts": {"facade", "marts"},
    "spokes": {"marts", "facade"},
}
"""Which rooms a model of each room may read."""

NAMES = {
    "staging": r"stg_{folder}__[a-z0-9_]+",
    "intermediate": r"int_[a-z0-9]+(_[a-z0-9]+)*__[a-z0-9_]+",
    "core": r"core_[a-z0-9_]+",
    "facade": r"(dim|fct|bridge)_[a-z0-9_]+",
    "marts": r"mart_{folder}__[a-z0-9_]+",
    "spokes": r"spoke_{folder}__[a-z0-9_]+",
}
"""How a model of each room is named; ``{folder}`` is the folder that it lies in."""

LONGEST_MODEL = 150
"""Lines; a longer model hides a step that deserves a name."""


def room(node: Node) -> str:
    """Return the room that a model lies in, for example ``staging``; for any other node its resource type."""
    if node["resource_type"] != "model":
        return str(node["resource_type"])
    path = folders(node)
    return path[1] if path[0] == "hub" and len(path) > 1 else path[0]


def reads_only_the_room_before(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A model reads only what its room may read."""
    for model in manifest.models:
        allowed = READS.get(room(model))
        if allowed is None:
            yield model, f"lies in no room; the rooms are {', '.join(READS)}"
            continue
        for parent_id in manifest.parents(model["unique_id"]):
            parent = manifest.get(parent_id)
            if room(parent) not in allowed:
                yield (
                    model,
                    f"reads {parent['name']} ({room(parent)}); {room(model)} reads only {', '.join(sorted(allowed))}",
                )


def marts_stay_in_their_domain(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A mart does not read a mart of another domain."""
    for model in manifest.models:
        for parent_id in manifest.parents(model["unique_id"]):
            parent = manifest.get(parent_id)
            if room(model) == room(parent) == "marts" and folders(model) != folders(parent):
                yield model, f"reads {parent['name']} of domain {folders(parent)[-1]}; read the facade instead"


def names_say_the_room(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A model's name starts with its room's prefix."""
    for model in manifest.models:
        if room(model) in {"staging", "marts", "spokes"} and len(folders(model)) < 2:
            yield model, f"lies in {room(model)}/ itself; put it into a folder below"
            continue
        pattern = NAMES.get(room(model), ".*").format(folder=re.escape(folders(model)[-1]))
        if not re.fullmatch(pattern, model["name"]):
            yield model, f"is named {model['name']}; here names match {pattern}"


def yaml_beside_the_model(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """Every model has one YAML of the same stem in the same folder."""
    for model in manifest.models:
        expected = re.sub(r"(_v\d+)?\.sql$", ".yml", model["original_file_path"])
        actual = (model.get("patch_path") or "").split("://")[-1]
        if actual != expected:
            yield model, f"is described in {actual or 'no file'}; put that in {expected}"


def public_models_are_described(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A model says its grain; whoever can be read from outside the hub describes and types every column."""
    for model in manifest.models:
        if not re.search(r"Grain: [^.]+\.\s*$", model["description"]):
            yield model, 'has no grain; end its description with "Grain: one row per ….".'
        if room(model) in {"facade", "marts", "spokes"}:
            if not model["contract"]["enforced"]:
                yield model, "has no enforced contract; remove the contract setting that turns it off"
            for column in model["columns"].values():
                if not column["description"] or not column["data_type"]:
                    yield model, f"column {column['name']} needs a description and a data_type"


def facade_is_versioned(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A facade view has a version, so that it can change without breaking who reads it."""
    for model in manifest.models:
        if room(model) == "facade" and model.get("version") is None:
            yield model, "has no version; add latest_version: 1 and versions: [{v: 1}] to its YAML"


def same_name_same_type(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """A column name has one type wherever it is public."""
    seen: dict[str, tuple[str, str]] = {}
    for model in sorted(
        manifest.models, key=lambda model: list(READS).index(room(model)) if room(model) in READS else 99
    ):
        if room(model) not in {"facade", "marts", "spokes"}:
            continue
        for column in model["columns"].values():
            first = seen.setdefault(column["name"], (str(column["data_type"]).replace(" ", ""), model["name"]))
            if first[0] != str(column["data_type"]).replace(" ", ""):
                yield model, f"column {column['name']} is {column['data_type']} here and {first[0]} in {first[1]}"


def models_are_short(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """No model is longer than LONGEST_MODEL lines."""
    for model in manifest.models:
        lines = len(model["raw_code"].splitlines())
        if lines > LONGEST_MODEL:
            yield model, f"has {lines} lines, {LONGEST_MODEL} are allowed; give a step of it a model of its own"


def spokes_are_delivered(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """Every spoke relation is delivered by an exposure, and the exposure's meta says to whom and how."""
    delivered = {
        node_id: exposure for exposure in manifest.exposures.values() for node_id in exposure["depends_on"]["nodes"]
    }
    for model in manifest.spokes:
        if model["unique_id"] not in delivered:
            yield model, "is in no exposure, so nobody has ordered it; name it in its spoke's exposures file"
    for exposure in manifest.exposures.values():
        missing = {"spoke", "delivery"} - meta(exposure).keys()
        if missing:
            yield exposure, f"exposure {exposure['name']}: config.meta lacks {' and '.join(sorted(missing))}"
        for node_id in exposure["depends_on"]["nodes"]:
            node = manifest.get(node_id)
            if room(node) != "spokes" or spoke_of(node) != meta(exposure).get("spoke"):
                yield exposure, f"exposure {exposure['name']} rests on {node['name']}, which is not its spoke's own"


def postgres_orders_can_be_filled(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """What an exposure orders from PostgreSQL, and the keys and indexes of its models, are there and well written."""
    yield from faults(manifest)


def reads_through_ref(manifest: Manifest, compiled: dict[str, str]) -> Iterator[tuple[Node, str]]:
    """A model names no table or file by hand: dbt would not know that it reads it."""
    delivered = set(manifest.ancestry([model["unique_id"] for model in manifest.spokes]))
    for model in manifest.models:
        query = parse(compiled.get(model["unique_id"], ""), manifest.dialect)
        if query is None:
            if model["unique_id"] in delivered:
                raise HubspokeError(
                    f"{model['unique_id']} has not been compiled, so what it reads is not known. Run: hubspoke build"
                )
            continue
        parents = {relation_key(manifest.get(parent)) for parent in manifest.parents(model["unique_id"])}
        ctes = {cte.alias_or_name.lower() for cte in query.find_all(exp.CTE)}
        for table in query.find_all(exp.Table):
            is_cte = table.name.lower() in ctes and not table.db
            is_sequence = isinstance(table.this, exp.GenerateSeries | exp.Unnest)
            if not is_cte and not is_sequence and table_key(table) not in parents:
                name = table.sql(dialect=manifest.dialect)
                yield model, f"reads {name} by its name; write ref() or source() so that dbt knows the order"


LOGIC = (exp.Join, exp.Group, exp.SetOperation, exp.Case, exp.Having, exp.Window, exp.Distinct, exp.AggFunc)
"""What a spoke's query may not hold."""


def spokes_are_thin(manifest: Manifest, compiled: dict[str, str]) -> Iterator[tuple[Node, str]]:
    """A spoke selects and filters; what it computes belongs into a mart."""
    for model in manifest.spokes:
        query = parse(compiled.get(model["unique_id"], ""), manifest.dialect)
        found = query.find(*LOGIC) if query else None
        if found:
            yield model, f"computes ({found.key}); move that into a mart and select from it"


Rule = Callable[[Manifest], Iterable[tuple[Node, str]]]
RULES: list[Rule] = [
    reads_only_the_room_before,
    marts_stay_in_their_domain,
    names_say_the_room,
    yaml_beside_the_model,
    public_models_are_described,
    facade_is_versioned,
    same_name_same_type,
    models_are_short,
    spokes_are_delivered,
    postgres_orders_can_be_filled,
]


def personal_data_has_a_purpose(manifest: Manifest, compiled: dict[str, str]) -> Iterator[tuple[Node, str]]:
    """Personal data reaches a spoke only where every exposure that delivers it says why.

    A column is personal if its values come from a source column of class ``personal``, whatever it is called by now.
    """
    lineage, personal = Lineage(manifest, compiled), manifest.personal_columns
    sources_of_them = {source for source, _ in personal}
    for model in manifest.spokes:
        model_id = model["unique_id"]
        exposures = [
            exposure
            for exposure in manifest.exposures.values()
            if model_id in exposure["depends_on"]["nodes"] and not meta(exposure).get("personal_data_purpose")
        ]
        # to trace a column takes long beside this
        if not exposures or not sources_of_them.intersection(manifest.ancestry([model_id])):
            continue
        found = sorted(column for column, sources in lineage.origins(model).items() if sources & personal)
        for exposure in exposures if found else []:
            yield (
                exposure,
                f"exposure {exposure['name']} delivers personal data ({', '.join(found)} of {model['name']}); "
                "state config.meta.personal_data_purpose, or leave the columns out",
            )


CompiledRule = Callable[[Manifest, dict[str, str]], Iterable[tuple[Node, str]]]
COMPILED_RULES: list[CompiledRule] = [reads_through_ref, spokes_are_thin, personal_data_has_a_purpose]
"""Rules that read compiled SQL, where no macro hides anything."""


def violations(manifest: Manifest, compiled: dict[str, str]) -> list[Violation]:
    """Check every rule.

    Args:
        manifest: The project as parsed.
        compiled: Compiled SQL of its models, by unique id.

    Raises:
        HubspokeError: A model that a spoke rests on has not been compiled, or a column cannot be traced.
    """
    found = [(rule.__name__, node, message) for rule in RULES for node, message in rule(manifest)]
    for compiled_rule in COMPILED_RULES:
        breaches = list(compiled_rule(manifest, compiled))
        found += [(compiled_rule.__name__, node, message) for node, message in breaches]
        if breaches and compiled_rule is reads_through_ref:
            break  # what is read by its name cannot be traced any further
    return [Violation(rule.replace("_", " "), node["original_file_path"], message) for rule, node, message in found]
