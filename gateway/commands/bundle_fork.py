"""`snowgate bundle fork`."""

from pathlib import Path

import click

from gateway.commands.options import actor, operator_options, reason_option, together
from gateway.output import facts, show


@click.command()
@operator_options
@reason_option
@click.argument("reference")
@click.argument("branch")
def fork(home: Path, server: str | None, output: str, reason: str, reference: str, branch: str) -> None:
    """Begin a branch at a bundle: a name of its own, MODEL@BRANCH, on which work goes on; nothing is copied.

    \b
    Examples:
      snowgate bundle fork signs@production signs@ana
      snowgate train --model signs --branch ana -- python train.py --seed 1
    """
    with together(home, server) as work:
        found = work.fork(reference, branch, actor=actor(), reason=reason)
    show(found, output, name="branch", tell=lambda one: facts(list(one.items())))
