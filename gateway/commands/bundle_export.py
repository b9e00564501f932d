"""`snowgate bundle export`."""

import os
import sys
import tempfile
from pathlib import Path

import click

from bundles.archive import write_archive
from bundles.errors import BundleError
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.output import facts, show


@click.command("export")
@home_option
@output_option
@click.argument("reference")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
def export(home: Path, output: str, reference: str, file: Path) -> None:
    """Write a bundle, with the statements about it, into one file: a tar of an OCI layout; - is standard output.

    The same bundle with the same statements gives the same bytes, from whatever home.

    \b
    Examples:
      snowgate bundle export signs@7 signs-7.tar
      snowgate bundle export signs@7 - | ssh colleague snowgate bundle import -
    """
    opened = existing_home(home)
    digest, model, version = opened.refs().resolve(reference)
    store = opened.store()
    if str(file) == "-":
        if sys.stdout.isatty():
            msg = "-: standard output is a terminal; give a file's name, or a pipe"
            raise BundleError(msg)
        size = write_archive(store, digest, sys.stdout.buffer, progress)
        sys.stdout.buffer.flush()
        progress(f"{size:,} bytes of {model}@{version}, {digest}")
        return
    made = None
    try:
        # Beside its place, so that it appears there whole or not at all.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-", delete=False) as target:
            made = Path(target.name)
            size = write_archive(store, digest, target, progress)  # type: ignore[arg-type]
            target.flush()
            os.fsync(target.fileno())
        made.chmod(0o644)
        made.replace(file)
    except OSError as error:
        msg = f"{file}: can't be written: {error.strerror}; make room, or give another place"
        raise BundleError(msg) from error
    finally:
        if made is not None:
            made.unlink(missing_ok=True)
    result = {"digest": digest, "model": model, "version": version, "file": str(file), "bytes": size}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))
