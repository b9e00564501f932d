"""How results are printed: the data on standard output, everything else on standard error.

JSON and YAML carry all of it and stay stable for scripts; a table is for people.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import click

Column = tuple[str, Callable[[dict[str, Any]], Any]]


def show(
    data: Any, form: str, *, columns: Sequence[Column] = (), name: str = "id", tell: Callable[[Any], None] | None = None
) -> None:
    """Print a result in the form that was asked for.

    A list is printed as a table of `columns`; one object by `tell`, or as its JSON. `name` is the key that `-o name`
    prints.
    """
    rows = data if isinstance(data, list) else [data]
    if form == "json":
        click.echo(json.dumps(data, indent=2))
    elif form == "yaml":
        click.echo("\n".join(_yaml(data)))
    elif form == "name":
        for row in rows:
            click.echo(row[name])
    elif tell is not None:
        tell(data)
    elif columns:
        table(rows, columns)
    else:
        click.echo(json.dumps(data, indent=2))


def table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
    """Print rows under headings, aligned; a note on standard error when there are none."""
    if not rows:
        click.echo("(none)", err=True)
        return
    cells = [[_cell(read(row)) for _heading, read in columns] for row in rows]
    headings = [heading.upper() for heading, _read in columns]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for line in (headings, *cells):
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def facts(pairs: Sequence[tuple[str, Any]]) -> None:
    """Print named facts, one a line; what is not known is left out."""
    known = [(label, _cell(value)) for label, value in pairs if value not in (None, "", [], {})]
    width = max((len(label) for label, _value in known), default=0)
    for label, value in known:
        click.echo(f"{label.ljust(width)}   {value}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(one)}" for key, one in value.items())
    return str(value)


def _yaml(data: Any, indent: int = 0) -> list[str]:
    """Write plain YAML; scalars in their JSON form, which YAML includes."""
    before = "  " * indent
    if isinstance(data, dict) and data:
        lines = []
        for key, value in data.items():
            if isinstance(value, dict | list) and value:
                lines += [f"{before}{json.dumps(str(key))}:", *_yaml(value, indent + 1)]
            else:
                lines.append(f"{before}{json.dumps(str(key))}: {json.dumps(value)}")
        return lines
    if isinstance(data, list) and data:
        lines = []
        for value in data:
            inner = _yaml(value, indent + 1)
            lines += [f"{before}- {inner[0].lstrip()}", *inner[1:]]
        return lines
    return [f"{before}{json.dumps(data)}"]
