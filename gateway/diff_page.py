"""The difference of two bundles as one page that needs nothing else: no network, no script, in light and dark."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

CONSOLE = Path(__file__).parent / "console"


def page(found: dict[str, Any]) -> str:
    """Return what `bundles.diff.compare` found as HTML; all that bundles say of themselves is escaped."""
    templates = Environment(
        loader=FileSystemLoader(CONSOLE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    style = (CONSOLE / "static" / "console.css").read_text(encoding="utf-8")
    return templates.get_template("diff.html").render(style=style, rows_words=rows_words, **found)


def rows_words(one: dict[str, Any]) -> str:
    """Say what became of the rows of a file.

    >>> rows_words({"rows": {"before": 3, "after": 5, "added": 3, "removed": 1}, "rows_unknown": None})
    '3 → 5 (+3 −1)'
    """
    rows = one["rows"]
    if rows is None:
        return one["rows_unknown"] or "the same"
    counts = " → ".join("-" if rows[side] is None else f"{rows[side]:,}" for side in ("before", "after"))
    return counts if rows["added"] is None else f"{counts} (+{rows['added']:,} −{rows['removed']:,})"
