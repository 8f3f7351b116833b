"""Results as pages: one HTML file each, with no script from elsewhere, so that it opens without a network."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape


def sparkline(values: list[int]) -> str:
    """Return some numbers as a line of bars, scaled to the highest."""
    bars = "▁▂▃▄▅▆▇█"
    highest = max(values, default=0) or 1
    return "".join(bars[-(-value * 7 // highest)] for value in values)


def write_page(template: str, path: Path, **content: Any) -> None:
    """Write a page.

    Args:
        template: Name of a template in ``templates/``.
        path: File to write; its folder is made where it is missing.
        content: What the template shows, by the names that it uses.
    """
    environment = Environment(loader=PackageLoader("hubspoke"), autoescape=select_autoescape())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template(template).render(content))
