"""`snowgate monitor`."""

from pathlib import Path

import click

from gateway.commands.options import NounGroup, operations, operator_options
from gateway.output import show


@click.group(cls=NounGroup)
def monitor() -> None:
    """See what is watched, and how far it is from a page."""


@monitor.command("list")
@operator_options
def list_(home: Path, server: str | None, output: str) -> None:
    """List every watched signal of every version.

    \b
    Example:
      snowgate monitor list
    """
    with operations(home, server) as work:
        found = work.monitors()
    columns = [
        ("model", lambda one: one["model"]),
        ("version", lambda one: one["version"]),
        ("signal", lambda one: one["signal"]),
        ("tier", lambda one: one["tier"]),
        ("detector", lambda one: one["detector"]),
        ("state", lambda one: one["state"]),
        ("evidence (s)", lambda one: one["evidence"]),
        ("limit (s)", lambda one: one["limit"]),
        ("lag (s)", lambda one: one["lag_s"]),
    ]
    show(found, output, columns=columns, name="signal")
