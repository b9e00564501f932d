"""`snowgate data`."""

from pathlib import Path
from typing import Any

import click

from bundles.bundle import open_bundle
from bundles.data import FOUND, fetch, whereabouts
from bundles.errors import DataLost
from bundles.home import Home
from gateway.commands.options import NounGroup, existing_home, home_option, output_option, progress
from gateway.output import Column, show

COLUMNS: list[Column] = [
    ("data", lambda one: one["name"]),
    ("sha256", lambda one: one["sha256"][:19]),
    ("bytes", lambda one: one["size"]),
    ("where", lambda one: one["where"]),
]


@click.group(cls=NounGroup)
def data() -> None:
    """Keep, bring back and look for the training data that bundles name."""


@data.command()
@home_option
@output_option
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def add(home: Path, output: str, paths: tuple[Path, ...]) -> None:
    """Keep copies of data files in the home, under their digests; folders with all that is in them.

    \b
    Examples:
      snowgate data add data/train.npz
      snowgate data add data/
    """
    kept = Home(home).make().data()
    found = []
    for path in paths:
        for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
            progress(f"{file}")
            digest = kept.add(file)
            found.append({"name": str(file), "sha256": digest, "size": file.stat().st_size, "where": "kept"})
    show(found, output, columns=COLUMNS, name="sha256")


@data.command("fetch")
@home_option
@output_option
@click.option("--from", "source", help="A home, a folder or a URL (s3://…) that has them by digest or by name.")
@click.argument("reference")
def fetch_(home: Path, output: str, source: str | None, reference: str) -> None:
    """Keep copies of all data files of a bundle in the home, from wherever they still are; 1 when one is lost.

    \b
    Examples:
      snowgate data fetch signs@7
      snowgate data fetch signs@7 --from ../archive
    """
    opened = existing_home(home)
    digest, _model, _version = opened.refs().resolve(reference)
    bundle = open_bundle(opened.store(), digest)
    found, lost = [], []
    for one in bundle.run().get("data", []):
        progress(f"{one['name']}: {one['size']} bytes")
        try:
            where = fetch(bundle, one, opened.data(), source)
        except DataLost as error:
            where = "lost"
            lost.append(str(error))
        found.append(_shown(one, where))
    show(found, output, columns=COLUMNS, name="sha256")
    if lost:
        raise DataLost("; ".join(lost))


@data.command()
@home_option
@output_option
@click.argument("reference")
def check(home: Path, output: str, reference: str) -> None:
    """Say of each data file of a bundle whether its bytes can still be had, and where; 1 when some are gone.

    \b
    Example:
      snowgate data check signs@production
    """
    opened = existing_home(home)
    digest, _model, _version = opened.refs().resolve(reference)
    bundle = open_bundle(opened.store(), digest)
    found = [_shown(one, whereabouts(bundle, one, opened.data())) for one in bundle.run().get("data", [])]
    show(found, output, columns=COLUMNS, name="sha256")
    gone = [one["name"] for one in found if one["where"] not in FOUND]
    if gone:
        raise DataLost(f"{', '.join(gone)}: gone; if a place has them: snowgate data fetch {reference} --from PLACE")


def _shown(entry: dict[str, Any], where: str) -> dict[str, Any]:
    return {name: entry[name] for name in ("name", "sha256", "size", "path", "authority", "declared")} | {
        "where": where
    }
