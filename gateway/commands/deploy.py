"""`snowgate deploy`."""

import time
from pathlib import Path
from typing import Any

import click

from gateway.commands.options import actor, operations, operator_options, progress, reason_option
from gateway.output import facts, show

POLL_SECONDS = 0.1
ROLLED_BACK, TIMED_OUT = 3, 4


@click.command()
@operator_options
@click.argument("reference")
@click.option("--to", "environment", default="production", show_default=True, help="The environment.")
@click.option("--canary", type=click.IntRange(1, 99), help="Percentage of units; the stable version keeps the rest.")
@click.option("--again", is_flag=True, help="Allow a rejected version again; needs --reason.")
@reason_option
@click.option("--wait", is_flag=True, help="Wait until the gateway has done it.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
def deploy(
    home: Path,
    server: str | None,
    output: str,
    reference: str,
    environment: str,
    canary: int | None,
    again: bool,
    reason: str,
    wait: bool,
    timeout: float,
) -> int:
    """Say which version an environment shall serve; a running gateway moves there by itself.

    \b
    Examples:
      snowgate deploy signs@1 --to production --wait
      snowgate deploy signs@2 --to production --canary 10 --wait
    """
    with operations(home, server) as work:
        found = work.deploy(reference, environment, canary=canary, actor=actor(), reason=reason, again=again)
        status = 0
        if wait:
            found, status = wait_for(work, found, timeout)
    show(found, output, name="model", tell=tell)
    return status


def wait_for(work: Any, deployment: dict[str, Any], seconds: float) -> tuple[dict[str, Any], int]:
    """Wait until the gateway has gone as far as it can; return where things stand and the exit code."""
    deadline = time.monotonic() + seconds
    said = ""
    wanted = (deployment["desired"] or {}).get("digest")
    while True:
        if wanted in [one["digest"] for one in deployment["rejected"]]:
            return deployment, ROLLED_BACK
        if deployment["phase"] in ("Healthy", "Paused", "Idle") and deployment["settled"]:
            return deployment, 0
        if deployment["phase"] in ("Degraded", "Aborted") and deployment["settled"]:
            return deployment, ROLLED_BACK
        if time.monotonic() > deadline:
            progress(f"not done after {seconds:g} s: {deployment['message']}; is a gateway serving this home?")
            return deployment, TIMED_OUT
        if deployment["message"] != said:
            said = deployment["message"]
            progress(said)
        time.sleep(POLL_SECONDS)
        deployment = work.deployment(deployment["model"], deployment["environment"])


def tell(one: dict[str, Any]) -> None:
    """Print where a deployment stands."""
    desired = one["desired"]
    facts(
        [
            ("model", one["model"]),
            ("environment", one["environment"]),
            ("phase", one["phase"]),
            ("desired", None if desired is None else f"version {desired['version']}"),
            ("canary", None if desired is None or not desired["canary"] else f"{desired['canary']} %"),
            ("message", one["message"]),
        ]
    )
