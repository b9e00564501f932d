"""A comparison as a Markdown document: how it was made, then the medians; and where results go."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {
    "server": "server",
    "concurrency": "at once",
    "requests_per_second": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_us_per_request": "CPU µs a request",
    "ratio": "ratio",
}
TEXT = {"server"}


def document(rows: Sequence[Mapping[str, Any]], heading: Sequence[str]) -> str:
    """Return the document: the heading's lines as a list, then a table for each model, body and number of cores."""
    parts = ["# Snowgate beside other servers", "\n".join(f"- {line}" for line in heading)]
    cases = {(row["cores"], row["model"], row["body"]) for row in rows}
    for cores, model, body in sorted(cases, key=lambda case: (case[0], case[1] != "mlp", case[2] != "json")):
        chosen = [row for row in rows if (row["cores"], row["model"], row["body"]) == (cores, model, body)]
        chosen.sort(key=lambda row: row["concurrency"])
        on = "one core" if cores == 1 else f"{cores} cores, shared with the generator"
        parts += [f"## {model.upper()}, {body}, {on}", table(chosen)]
    synced = [row["durable_sync_ms"] for row in rows if row.get("durable_sync_ms")]
    if synced:
        low, high = min(one["p50"] for one in synced), max(one["p99"] for one in synced)
        parts.append(
            f"One fdatasync of 4 KB in Snowgate's log folder, in the same run: p50 from {low} ms, p99 up to {high} ms."
        )
    if any(row["busy"] for row in rows):
        parts.append("\\* other work took more than a tenth of a CPU: measure again on a quiet machine.")
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Return a Markdown table; a point that failed says why in place of its numbers.

    >>> print(table([{"server": "a", "concurrency": 1, "requests_per_second": 1234.0, "busy": True, "error": None}]))
    | server | at once | requests/s |
    |---|---:|---:|
    | a \* | 1 | 1,234 |
    """
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    lines = [
        f"| {' | '.join(COLUMNS[name] for name in shown)} |",
        f"|{'|'.join('---' if name in TEXT else '---:' for name in shown)}|",
    ]
    for row in rows:
        if row["error"]:
            cells = [row["server"], str(row["concurrency"]), f"error: {first_line(row['error'])}"]
            cells += [""] * (len(shown) - len(cells))
        else:
            cells = [_cell(row, name) for name in shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def first_line(text: str) -> str:
    """Return what fits into a cell."""
    return (text.splitlines() or [""])[0].replace("|", "\\|")[:200]


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if name == "server":
        return f"{value} \\*" if row["busy"] else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if isinstance(value, float) else str(value)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a result goes, and in which form."""
    add = parser.add_argument
    add("-o", dest="form", choices=["markdown", "json"], default="markdown", help="form of the result")
    add("--output", type=Path, action="append", default=[], metavar="FILE", help="a copy: JSON when it ends so")


def publish(texts: Mapping[str, str], chosen: argparse.Namespace) -> None:
    """Print a result in the chosen form, and write the copies in the form that their names say."""
    print(texts[chosen.form], end="")
    for path in chosen.output:
        path.write_text(texts["json" if path.suffix == ".json" else "markdown"])
