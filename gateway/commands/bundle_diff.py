"""`snowgate bundle diff`."""

import re
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from bundles.diff import compare
from bundles.diff.predictions import ROWS_MAX
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.diff_page import page, rows_words
from gateway.output import Column, facts, show, table

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What would command the terminal rather than be shown: a bundle from elsewhere may hold anything."""
COLOURS = {"+": "green", "-": "red", "@": "cyan"}
LISTED_MAX = 20
"""Lines of a list in the terminal; JSON and the page have all."""


@click.command()
@home_option
@output_option
@click.argument("first")
@click.argument("second")
@click.option("--predictions/--no-predictions", default=True, help="Load both models and ask them the same rows.")
@click.option("--rows", type=click.IntRange(1), default=ROWS_MAX, show_default=True, help="Rows to ask at most.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole of it as a page, too.")
def diff(home: Path, output: str, first: str, second: str, predictions: bool, rows: int, html: Path | None) -> None:
    """Show what is different between two bundles: code, data, parameters, packages, metrics, and what they predict.

    Both are asked the rows of the first one's holdout; a bundle that this home does not trust is not loaded, and the
    rest is compared all the same. What is too long is cut, and said to be. Exits with 0 whether they differ or not.

    \b
    Examples:
      snowgate bundle diff signs@6 signs@7
      snowgate bundle diff signs@production signs@7 --html diff.html
      snowgate bundle diff signs@6 signs@7 --no-predictions -o json
    """
    found = compare(existing_home(home), first, second, predict=predictions, rows_max=rows, say=progress)
    if html is not None:
        html.write_text(page(found), encoding="utf-8")
        progress(f"written: {html}")
    # By name: what is told apart, so that a script can ask whether anything is.
    show(
        found | {"digests": f"{found['first']['digest']} {found['second']['digest']}"} if output == "name" else found,
        output,
        name="digests",
        tell=_tell,
    )


def _tell(found: dict[str, Any]) -> None:
    facts([(side, _identity(found[side])) for side in ("first", "second")])
    facts([("weights", "the same" if found["same_weights"] else "different")])
    _tell_code(found["code"])
    _tell_data(found["data"])
    _tell_parameters(found["parameters"])
    _tell_packages(found["packages"])
    _tell_metrics(found["metrics"])
    _tell_predictions(found["predictions"])


def _heading(text: str, *, same: bool = False) -> None:
    click.echo()
    click.secho(f"{text}{': the same' if same else ''}", bold=True)


def _say(text: str) -> None:
    click.echo(CONTROL.sub("�", text))


def _table(rows: list[dict[str, Any]], columns: list[Column]) -> None:
    """Print the first rows of a list; nothing of a bundle's own words may command the terminal."""
    if rows:
        table(rows[:LISTED_MAX], [(heading, _harmless(read)) for heading, read in columns])
    if len(rows) > LISTED_MAX:
        click.echo(f"… and {len(rows) - LISTED_MAX} more: -o json and --html have all")


def _harmless(read: Any) -> Any:
    def cell(row: dict[str, Any]) -> Any:
        value = read(row)
        return CONTROL.sub("�", str(value)) if isinstance(value, str | list | dict) else value

    return cell


def _identity(one: dict[str, Any]) -> str:
    by = ", ".join(one["authors"])
    return CONTROL.sub("�", f"{one['model']}@{one['version']}   {one['digest']}   {one['created'][:19]}Z   {by}")


def _tell_code(code: dict[str, Any]) -> None:
    of_what = "the recorded source trees" if code["compared"] == "source" else "the files of the models"
    _heading(f"Code ({of_what})", same=not code["files"])
    for one in code["files"]:
        if one["change"] == "renamed":
            _say(f"renamed {one['before']} → {one['path']}")
        elif one["diff"] is None:
            _say(f"{one['change']} {one['path']}: {one['not_shown']}")
        else:
            for line in one["diff"].splitlines():
                click.secho(CONTROL.sub("�", line), fg=COLOURS.get(line[:1]))
    if code["cut"]:
        _say(f"cut: {code['cut']}")


def _tell_data(data: dict[str, Any]) -> None:
    _heading("Data", same=not data["files"])
    rows = data["files"]
    _table(
        rows,
        [
            ("file", lambda one: one["name"]),
            ("", lambda one: one["change"]),
            ("bytes", lambda one: _both(one, "size")),
            ("rows", rows_words),
        ],
    )
    if data["cut"]:
        _say(f"cut: {data['cut']}")


def _both(one: dict[str, Any], key: str) -> str:
    sides = [one["before"], one["after"]]
    return " → ".join("-" if side is None else f"{side[key]:,}" for side in sides)


CHANGES: list[Column] = [
    ("name", lambda one: one["name"]),
    ("", lambda one: one["change"]),
    ("before", lambda one: one["before"]),
    ("after", lambda one: one["after"]),
]


def _tell_parameters(parameters: dict[str, Any]) -> None:
    parts = ("parameters", "seeds", "configuration")
    found = [one | {"change": f"{part}: {one['change']}"} for part in parts for one in parameters[part]]
    command = parameters["command"]
    _heading("Parameters", same=not found and command is None)
    _table(found, CHANGES)
    if command is not None:
        for side in ("before", "after"):
            _say(f"command {side}: {' '.join(command[side] or ['(none was recorded)'])}")


def _tell_packages(packages: dict[str, Any]) -> None:
    for part in ("training", "serving"):
        one = packages[part]
        if one is None:
            continue
        python, platform = one["python"], one.get("platform", {"before": None, "after": None})
        same = not one["changes"] and not one["rebuilt"] and len({*python.values()}) == len({*platform.values()}) == 1
        _heading(f"Packages ({part})", same=same)
        for what, pair in (("Python", python), ("platform", platform)):
            if pair["before"] != pair["after"]:
                _say(f"{what} {pair['before']} → {pair['after']}")
        _table(one["changes"], CHANGES)
        if one["rebuilt"]:
            _say(f"same version, other files: {', '.join(one['rebuilt'])}")


METRICS: list[Column] = [
    ("metric", lambda one: one["name"]),
    ("slice", lambda one: one["slice"]),
    ("before", lambda one: one["before"]),
    ("after", lambda one: one["after"]),
    ("difference", lambda one: None if one["difference"] is None else f"{one['difference']:+.4g}"),
]
RATES: list[Column] = [
    ("class", lambda one: one["class"]),
    ("rows", lambda one: one["rows"]),
    ("before", lambda one: one["before"]),
    ("after", lambda one: one["after"]),
    ("difference", lambda one: f"{one['difference']:+.4g}"),
]


def _tell_metrics(metrics: dict[str, Any]) -> None:
    found = [*metrics["overall"], *metrics["slices"]]
    _heading("Metrics, as recorded", same=all(one["change"] == "unchanged" for one in found))
    _table(found, METRICS)


def _tell_predictions(found: dict[str, Any]) -> None:
    if not found["compared"]:
        _heading("Predictions")
        _say(f"not compared: {found['reason']}")
        return
    holdout = found["holdout"]
    whose = "that both were measured on" if holdout["of"] == "both" else "of the FIRST one; the second has another"
    _heading(f"Predictions on {holdout['rows']:,} of {holdout['rows_in_file']:,} rows of the holdout {whose}")
    facts(
        [
            ("agreement", f"{found['agreement']:.2%}"),
            ("flips", found.get("flips")),
            ("accuracy", _accuracy(found.get("accuracy"))),
            ("difference of", found.get("difference_of") or found.get("signal") or found.get("outputs")),
            ("mean", found["mean_difference"]),
            ("largest", found["max_difference"]),
        ]
    )
    if found.get("accuracy"):
        _table(found["accuracy"]["by_class"], RATES)
    flips: list[Column] = [(key, itemgetter(key)) for key in ("from", "to", "rows")]
    keys = ("row", "before", "after", "truth", "difference")
    shown = [key for key in keys if any(one.get(key) is not None for one in found["largest"])]
    largest: list[Column] = [(key, itemgetter(key)) for key in shown]
    for title, rows, columns in (("Flips", found.get("from_to", []), flips), ("Largest", found["largest"], largest)):
        if rows:
            click.echo(f"\n{title}")
            _table(rows, columns)


def _accuracy(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    moved = f"{found['fixed']} rows made right, {found['broken']} made wrong"
    return f"{found['before']:.4g} → {found['after']:.4g} ({moved})"
