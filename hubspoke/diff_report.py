"""What a build would change of what readers see, by rows, as a person or a program reads it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hubspoke.changes import Counts
from hubspoke.plan import counted


@dataclass(frozen=True)
class RelationDiff:
    """What a build would make of a spoke's relation.

    Attributes:
        name: Its name.
        spoke: Consumer that may read it.
        rows_before: Rows that readers see; None if they see no such relation.
        rows_after: Rows that it would have; None if it would be no more.
        key: Columns that rows were compared by; empty if whole rows were.
        counts: Rows that differ.
    """

    name: str
    spoke: str
    rows_before: int | None
    rows_after: int | None
    key: tuple[str, ...]
    counts: Counts

    @property
    def kind(self) -> Literal["new", "gone", "changed", "same"]:
        """What becomes of it."""
        if self.rows_before is None:
            return "new"
        if self.rows_after is None:
            return "gone"
        return "same" if self.counts.is_nothing else "changed"

    @property
    def by_column(self) -> str:
        """The changed rows of each column, the most first; empty if no row is changed."""
        in_order = sorted(self.counts.columns.items(), key=lambda column: -column[1])
        return ", ".join(f"{name} {rows:,}" for name, rows in in_order)

    def as_lines(self) -> list[str]:
        """Say it for a terminal."""
        about = f"  {self.name} of {self.spoke}: "
        if self.kind == "new":
            return [f"{about}new, with {counted(self.rows_after or 0, 'row')}"]
        if self.kind == "gone":
            return [f"{about}readers lose it, with {counted(self.rows_before or 0, 'row')}"]
        counts, sizes = self.counts, f"{self.rows_before:,} rows before, {self.rows_after:,} after"
        changed = f"{counts.changed:,} changed, " if self.key else ""
        how = f"by {', '.join(self.key)}" if self.key else "as whole rows: no key tells them apart"
        lines = [f"{about}{counts.added:,} added, {changed}{counts.removed:,} removed; {sizes}; {how}"]
        return [*lines, f"    changed: {self.by_column}"] if self.by_column else lines

    def as_row(self) -> str:
        """Return it as a row of a Markdown table."""
        counts, is_compared = self.counts, self.kind in {"changed", "same"}
        how = {"new": "new", "gone": "readers lose it"}.get(self.kind, self.by_column)
        if is_compared and not self.key:
            how = "as whole rows: no key tells them apart"
        changed = f"{counts.changed:,}" if self.key else ""
        cells = [f"`{self.name}`", self.spoke, f"{counts.added:,}", changed, f"{counts.removed:,}", how]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


@dataclass(frozen=True)
class Diff:
    """What a build would change of what readers see.

    Attributes:
        release: Number of the release that they see; None if there is none.
        relations: Relations of spokes that a plan says would change, whether or not a row of them does.
        faults: What failed when the plan was tried out, in lines; nothing is compared then.
        note: Why nothing was compared where nothing failed; empty otherwise.
    """

    release: int | None
    relations: tuple[RelationDiff, ...] = ()
    faults: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_red(self) -> bool:
        """Whether a build would release nothing, as something fails."""
        return bool(self.faults)

    @property
    def heading(self) -> str:
        """What was compared, or why nothing was."""
        if self.is_red:
            return "Rows are not compared: the build was tried out, and fails"
        if self.note:
            return f"Rows are not compared: {self.note}"
        if not self.relations:
            return "No relation of a spoke would change"
        return f"Rows compared with release {self.release}"

    def as_lines(self) -> list[str]:
        """Return it for a terminal."""
        same = [one.name for one in self.relations if one.kind == "same"]
        lines = [line for one in self.relations if one.kind != "same" for line in one.as_lines()]
        if same:
            lines.append(f"  no row differs: {', '.join(same)}")
        lines += [f"  {line}" for line in self.faults]
        return [f"{self.heading}{':' if lines else '.'}", *lines]

    def as_markdown(self) -> list[str]:
        """Return it for a pull request."""
        if self.is_red:
            return [f"{self.heading}:", "", "```", *self.faults, "```"]
        if not self.relations:
            return [f"{self.heading}."]
        head = ["| relation | of | added | changed | removed | changed by column |", "|---|---|--:|--:|--:|---|"]
        return [f"{self.heading}:", "", *head, *(one.as_row() for one in self.relations)]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for a program."""
        relations = [
            {
                "name": one.name,
                "spoke": one.spoke,
                "kind": one.kind,
                "rows_before": one.rows_before,
                "rows_after": one.rows_after,
                "key": one.key,
                **asdict(one.counts),
            }
            for one in self.relations
        ]
        return {"release": self.release, "note": self.note, "faults": self.faults, "relations": relations}
