"""`snowgate rollout`."""

import time
from pathlib import Path
from typing import Any

import click

from gateway.commands.deploy import tell, wait_for
from gateway.commands.options import (
    NounGroup,
    actor,
    environment_option,
    operations,
    operator_options,
    progress,
    reason_option,
)
from gateway.output import Column, show
from gateway.settings import REPLICAS_MAX

MARKS = {"done": "✔", "current": "▶", "waiting": "·", "stopped": "✖"}


@click.group(cls=NounGroup)
def rollout() -> None:
    """See the way from one version to the next, promote it, abort it; have more or fewer runners."""


@rollout.command("list")
@operator_options
def list_(home: Path, server: str | None, output: str) -> None:
    """List all models: what each version of theirs gets of the traffic, and its runners (ready/wanted).

    \b
    Examples:
      snowgate rollout list
      snowgate rollout list -o json
    """
    with operations(home, server) as work:
        found = work.rollouts()
    columns: list[Column] = [
        ("model", lambda one: one["model"]),
        ("environment", lambda one: one["environment"]),
        ("phase", lambda one: one["phase"]),
        ("stable", lambda one: _part(one, "stable")),
        ("canary", lambda one: _part(one, "canary")),
        ("runners", _runners),
    ]
    show(found, output, columns=columns, name="model")


def _part(one: dict[str, Any], variant: str) -> str | None:
    """Say which version has a part in a route, and its share of the traffic."""
    found = [each for each in (one["actual"] or {}).get("variants", []) if each["variant"] == variant]
    return f"version {found[0]['version']}, {found[0]['weight'] / 100:g} %" if found else None


def _runners(one: dict[str, Any]) -> str | None:
    """Say how many runners of each version are ready, and how many there are to be.

    >>> _runners({"runners": [{"version": "1", "ready": 2, "replicas": 3}]})
    'version 1 2/3'
    """
    return ", ".join(f"version {each['version']} {each['ready']}/{each['replicas']}" for each in one["runners"]) or None


@rollout.command()
@operator_options
@environment_option
@click.argument("model")
@click.option("-w", "--watch", is_flag=True, help="Print every change, until it is over.")
def get(home: Path, server: str | None, output: str, environment: str, model: str, watch: bool) -> None:
    """Show a rollout: its steps, and the share that each version has.

    \b
    Example:
      snowgate rollout get signs -w
    """
    with operations(home, server) as work:
        found = work.rollout(model, environment)
        show(found, output, name="model", tell=_tell)
        said = (found["phase"], found["message"])
        while watch and not found["settled"]:
            time.sleep(0.2)
            found = work.rollout(model, environment)
            if (found["phase"], found["message"]) != said:
                said = (found["phase"], found["message"])
                show(found, output, name="model", tell=_tell)


@rollout.command()
@operator_options
@environment_option
@click.argument("model")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait until it is settled.")
def status(home: Path, server: str | None, output: str, environment: str, model: str, timeout: float) -> int:
    """Wait until a rollout is settled; exit code 0 done, 3 rolled back, 4 still running or paused.

    \b
    Example:
      snowgate rollout status signs --timeout 120
    """
    with operations(home, server) as work:
        found, code = wait_for(work, work.rollout(model, environment), timeout)
    show(found, output, name="model", tell=_tell)
    return 4 if code == 0 and found["phase"] == "Paused" else code


@rollout.command()
@operator_options
@environment_option
@reason_option
@click.argument("model")
def promote(home: Path, server: str | None, output: str, environment: str, reason: str, model: str) -> None:
    """Give the canary all traffic.

    \b
    Example:
      snowgate rollout promote signs --reason "as good as version 1 on every class"
    """
    with operations(home, server) as work:
        show(work.promote(model, environment, actor=actor(), reason=reason), output, name="model", tell=_tell)


@rollout.command()
@operator_options
@environment_option
@click.option("--reason", required=True, help="Why, in a sentence; it goes into the audit log.")
@click.argument("model")
def abort(home: Path, server: str | None, output: str, environment: str, reason: str, model: str) -> None:
    """Take the canary out, and reject its bundle in this environment.

    \b
    Example:
      snowgate rollout abort signs --reason "confuses stop with yield"
    """
    with operations(home, server) as work:
        found = work.abort(model, environment, actor=actor(), reason=reason)
    show(found, output, name="model", tell=_tell)
    if output == "table":
        click.echo(found["effect"], err=True)


@rollout.command()
@operator_options
@environment_option
@reason_option
@click.option("--replicas", type=click.IntRange(1, REPLICAS_MAX), help="Runners of each version that has traffic.")
@click.option("--reset", is_flag=True, help="Have as many as the settings say.")
@click.option("--wait", is_flag=True, help="Wait until all of them are ready.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
@click.argument("model")
def scale(
    home: Path,
    server: str | None,
    output: str,
    environment: str,
    reason: str,
    replicas: int | None,
    reset: bool,
    wait: bool,
    timeout: float,
    model: str,
) -> int:
    """Have more or fewer runners of a model, while it serves; no call is lost.

    \b
    Examples:
      snowgate rollout scale signs --replicas 2 --wait
      snowgate rollout scale signs --reset
    """
    if (replicas is None) == (not reset):
        raise click.UsageError("give either --replicas N or --reset")
    if wait and reset:
        raise click.UsageError("--wait goes with --replicas: only the gateway knows what its settings say")
    with operations(home, server) as work:
        found = work.scale(model, environment, replicas, actor=actor(), reason=reason)
        deadline = time.monotonic() + timeout
        while wait and not _scaled(found, replicas):
            if time.monotonic() > deadline:
                progress(f"not done after {timeout:g} s; is a gateway serving this home?")
                show(found, output, name="model", tell=_tell)
                return 4
            time.sleep(0.1)
            found = work.rollout(model, environment)
    show(found, output, name="model", tell=_tell)
    return 0


def _scaled(one: dict[str, Any], replicas: int | None) -> bool:
    """Whether every version with traffic has as many runners as it is to have, and all of them are ready."""
    routed = {variant["digest"] for variant in (one["actual"] or {}).get("variants", [])}
    loaded = [each for each in one["runners"] if each["digest"] in routed]
    return bool(loaded) and all(each["ready"] == each["replicas"] == replicas for each in loaded)


def _tell(one: dict[str, Any]) -> None:
    tell(one)
    for step in one.get("steps", []):
        click.echo(f"  {MARKS[step['state']]} {step['name']}")
    for variant in (one["actual"] or {}).get("variants", []):
        click.echo(f"  {variant['variant']:8} version {variant['version']}   {variant['weight'] / 100:g} %")
    for loaded in one.get("runners", []):
        click.echo(f"  runners  version {loaded['version']}   {loaded['ready']} of {loaded['replicas']} ready")
    for command in one.get("commands", []):
        click.echo(f"  next: {command}")
