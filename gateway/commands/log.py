"""`snowgate log`."""

from pathlib import Path

import click

from gateway.commands.log_cursors import cursors
from gateway.commands.log_verify import verify
from gateway.commands.options import (
    NounGroup,
    actor,
    existing_home,
    home_option,
    output_option,
    progress,
    reason_option,
)
from gateway.forgetting import forget as forget_payloads
from gateway.output import facts, show
from gateway.sealer import seal_now
from gateway.settings import find_file, load_settings, read_environment
from state.sqlite import SqliteState


@click.group(cls=NounGroup)
def log() -> None:
    """Check the prediction log, seal it, see who follows it, and erase from it."""


log.add_command(verify)
log.add_command(cursors)


@log.command()
@home_option
@output_option
@click.option("--rebuild", is_flag=True, help="Make the manifest's entries and all Parquet files again.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: snowgate.toml]")
def seal(home: Path, output: str, rebuild: bool, file: Path | None) -> None:
    """Seal now: compress closed segments, project them into Parquet, remove what is too old or too much.

    A running gateway does so by itself; this also works beside it.

    \b
    Examples:
      snowgate log seal
      snowgate log seal --rebuild
    """
    opened = existing_home(home)
    settings, _origins = load_settings(file or find_file(opened.path), read_environment(), {})
    told = seal_now(opened, settings.log, progress, rebuild=rebuild)
    show(told, output, name="segments", tell=lambda one: facts(list(one.items())))


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
