"""`snowgate log`."""

from dataclasses import asdict
from pathlib import Path

import click

from gateway.commands.log_cursors import cursors
from gateway.commands.options import NounGroup, existing_home, home_option, output_option
from gateway.output import facts, show
from monitors.log.reader import LogReader


@click.group(cls=NounGroup)
def log() -> None:
    """Check the prediction log, and see who follows it."""


@log.command()
@home_option
@output_option
def verify(home: Path, output: str) -> int:
    """Walk every frame: sums, gapless numbers, and the chain. Exit code 1 when anything is wrong.

    \b
    Example:
      snowgate log verify
    """
    report = asdict(LogReader(existing_home(home).log).verify())
    show(report, output, name="records", tell=lambda one: facts(list(one.items())))
    return 0 if report["first_bad"] is None else 1


log.add_command(cursors)
