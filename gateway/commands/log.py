"""`snowgate log`."""

from dataclasses import asdict
from pathlib import Path

import click

from bundles.home import Home
from gateway.commands.options import home_option, output_option
from gateway.output import facts, show
from monitors.log.reader import LogReader


@click.group()
def log() -> None:
    """Check the prediction log."""


@log.command()
@home_option
@output_option
def verify(home: Path, output: str) -> int:
    """Walk every frame: sums, gapless numbers, and the chain. Exit code 1 when anything is wrong."""
    report = asdict(LogReader(Home(home).log).verify())
    show(report, output, name="records", tell=lambda one: facts(list(one.items())))
    return 0 if report["first_bad"] is None else 1
