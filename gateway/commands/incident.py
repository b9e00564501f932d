"""`snowgate incident`."""

from pathlib import Path
from typing import Any

import click

from gateway.commands.options import NounGroup, actor, operations, operator_options, reason_option
from gateway.output import facts, show
from monitors.incidents import VERDICTS


@click.group(cls=NounGroup)
def incident() -> None:
    """See what shifted, acknowledge it, decide about it."""


@incident.command("list")
@operator_options
@click.option("--model", help="Of one model only.")
@click.option("--open", "open_only", is_flag=True, help="Leave out what is resolved.")
def list_(home: Path, server: str | None, output: str, model: str | None, open_only: bool) -> None:
    """List incidents, newest first.

    \b
    Example:
      snowgate incident list --open
    """
    with operations(home, server) as work:
        found = work.incidents(model)
    if open_only:
        found = [one for one in found if one["state"] != "resolved"]
    columns = [
        ("id", lambda one: one["id"]),
        ("state", lambda one: one["state"]),
        ("version", lambda one: one["version"]),
        ("onset", lambda one: one["onset"][:19].replace("T", " ") + " UTC"),
        ("what", lambda one: one["summary"]),
    ]
    show(found, output, columns=columns)


@incident.command("show")
@operator_options
@click.argument("id_", metavar="ID")
def show_(home: Path, server: str | None, output: str, id_: str) -> None:
    """Show an incident: what shifted, since when, how much, and its story so far.

    \b
    Example:
      snowgate incident show signs-20261124-093012
    """
    with operations(home, server) as work:
        found = work.incident(id_)
    show(found, output, tell=_tell)


@incident.command()
@operator_options
@reason_option
@click.argument("id_", metavar="ID")
def ack(home: Path, server: str | None, output: str, reason: str, id_: str) -> None:
    """Say that you are looking at it.

    \b
    Example:
      snowgate incident ack signs-20261124-093012
    """
    with operations(home, server) as work:
        show(work.acknowledge(id_, actor=actor(), reason=reason), output, tell=_tell)


@incident.command()
@operator_options
@click.option("--reason", required=True, help="Why, in a sentence; others will read it.")
@click.argument("id_", metavar="ID")
@click.argument("verdict", type=click.Choice(VERDICTS))
def decide(home: Path, server: str | None, output: str, reason: str, id_: str, verdict: str) -> None:
    """Decide: has the world changed, or is the model broken?

    \b
    world-changed    the data since the onset becomes the new baseline
    model-broken     the version is rolled back, and rejected until somebody allows it again
    data-pipeline, expected-event, false-alarm    closed with your reason; the detectors begin anew

    \b
    Example:
      snowgate incident decide signs-20261124-093012 model-broken --reason "snow on the lens was never trained"
    """
    with operations(home, server) as work:
        found = work.decide(id_, verdict, actor=actor(), reason=reason)
    show(found, output, tell=_tell)
    if output == "table":
        click.echo(found["effect"], err=True)


def _tell(one: dict[str, Any]) -> None:
    facts(
        [
            ("incident", one["id"]),
            ("state", one["state"]),
            ("what", one["summary"]),
            ("since", one["onset"]),
            ("versions", one["versions"]),
            ("likely", f"{one['likely']}: {one['likely_because']}" if one["likely"] else one["likely_because"]),
        ]
    )
    for signal in one["signals"]:
        strength = f"evidence {signal['evidence']:.3g}, limit {signal['limit']:.3g} s"
        click.echo(f"  {signal['tier']:7} version {signal['version']}: {signal['sentence']}  ({strength})")
    for entry in one["history"]:
        when = entry["time"][:19].replace("T", " ")
        click.echo(f"  {when} UTC  {entry['state']} by {entry['actor']}: {entry['reason']}")
    cause = one.get("cause", "shift")
    runner = cause == "runner"
    if runner and one["evidence"]["said"]:
        click.echo("  what it said last:")
        click.echo("\n".join(f"    {line}" for line in one["evidence"]["said"].splitlines()))
    if cause == "log" and one["state"] != "resolved":
        click.echo("  is there room, and does the disk work?  snowgate doctor; it ends when the log is written again")
    elif one["state"] in ("suspected", "open", "acknowledged"):
        if runner:
            click.echo(f"  is it mended?           snowgate deploy {one['model']}@{one['version']} --again --reason …")
        else:
            click.echo(f"  has the world changed?  snowgate incident decide {one['id']} world-changed --reason …")
        click.echo(f"  is the model broken?    snowgate incident decide {one['id']} model-broken --reason …")
