"""`snowgate bundle import`."""

import sys
from pathlib import Path

import click

from bundles.archive import Archive
from bundles.errors import BundleError
from bundles.home import Home
from bundles.remote.transfer import receive
from gateway.commands.bundle_pull import enter
from gateway.commands.options import home_option, output_option, progress


@click.command("import")
@home_option
@output_option
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
def import_(home: Path, output: str, file: Path) -> None:
    """Read a bundle, with the statements about it, from a file of `snowgate bundle export`; - is standard input.

    Every byte is hashed as it comes. The bundle gets the next version of its model in this home; one that is here
    already keeps its version. It is untrusted until this home trusts a key that signed it.

    \b
    Examples:
      snowgate bundle import signs-7.tar
      snowgate bundle import - < signs-7.tar
    """
    opened = Home(home).make()
    name = "standard input" if str(file) == "-" else file.name
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as content:
            archive = Archive(content, name)
            arrived = receive(opened, archive, archive.bundle(), say=progress)
            archive.finish()
    except OSError as error:
        msg = f"{file}: can't be read: {error.strerror}"
        raise BundleError(msg) from error
    enter(opened, arrived, f"file {name}" if str(file) != "-" else name, output)
