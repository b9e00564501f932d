"""`snowgate log`."""

from pathlib import Path

import click

from gateway.commands.log_cursors import cursors
from gateway.commands.log_verify import verify
from gateway.commands.options import NounGroup, actor, existing_home, home_option, output_option, reason_option
from gateway.forgetting import forget as forget_payloads
from gateway.output import facts, show
from state.sqlite import SqliteState


@click.group(cls=NounGroup)
def log() -> None:
    """Check the prediction log, see who follows it, and erase from it."""


log.add_command(verify)
log.add_command(cursors)


@log.command()
@home_option
@output_option
@click.option("--unit", help="Whose payloads are erased: what its calls had in the header Snowgate-Unit.")
@click.option("--prediction", "ids", metavar="ID", multiple=True, help="One prediction; may be given several times.")
@reason_option
def forget(home: Path, output: str, unit: str | None, ids: tuple[str, ...], reason: str) -> None:
    """Erase the payloads of a unit, or of single predictions, for ever; the chain still verifies.

    That there was a prediction, and what its header says, stays. It works beside a running gateway; calls that are
    answered meanwhile are not covered. Copies elsewhere, such as backups, are not reached.

    \b
    Example:
      snowgate log forget --unit camera-204 --reason "asked for on 2026-11-25, ticket 4711"
    """
    opened = existing_home(home)
    state = SqliteState(opened.state)
    try:
        told = forget_payloads(opened, state, unit=unit, ids=ids, actor=actor(), reason=reason)
    finally:
        state.close()
    show(told, output, name="subject", tell=lambda one: facts(list(one.items())))
