"""`snowgate proposal`."""

from pathlib import Path
from typing import Any

import click

from bundles.signing import read_signer
from gateway.commands.bundle_sign import key_option
from gateway.commands.deploy import wait_for
from gateway.commands.options import (
    NounGroup,
    actor,
    operations,
    operator_options,
    policy_option,
    progress,
    proposals,
    reason_option,
)
from gateway.commands.policy import tell_verdict
from gateway.operations import OperationError
from gateway.output import Column, facts, show, table
from gateway.proposals import Proposals
from gateway.retraining import retrain


@click.group(cls=NounGroup)
def proposal() -> None:
    """Propose a branch's bundle for an environment, review and merge it."""


@proposal.command("open")
@operator_options
@click.argument("branch")
@click.option("--to", "environment", default="production", show_default=True, help="The environment.")
@click.option("--text", required=True, help="What is better about it, for those who review it.")
def open_(home: Path, server: str | None, output: str, branch: str, environment: str, text: str) -> None:
    """Propose the head of a branch, MODEL@BRANCH, for an environment.

    \b
    Example:
      snowgate proposal open signs@ana --to production --text "twice the data, fewer false stops"
    """
    with proposals(home, server) as work:
        found = work.open(branch, environment, text=text, actor=actor())
    show(found, output, tell=_tell)


@proposal.command("list")
@operator_options
@click.option(
    "--state",
    type=click.Choice(["open", "merged", "closed", "all"]),
    default="open",
    show_default=True,
    help="Which of them.",
)
def list_(home: Path, server: str | None, output: str, state: str) -> None:
    """List the proposals, newest first.

    \b
    Examples:
      snowgate proposal list
      snowgate proposal list --state all -o json
    """
    with proposals(home, server) as work:
        found = work.list(state)
    columns: list[Column] = [
        ("id", lambda one: one["id"]),
        ("state", lambda one: one["state"]),
        ("branch", lambda one: one["branch"]),
        ("version", lambda one: one["head"]["version"]),
        ("for", lambda one: one["environment"]),
        ("reviews", lambda one: len(one["reviews"])),
        ("by", lambda one: one["actor"]),
        ("text", lambda one: one["text"][:60]),
    ]
    show(found, output, columns=columns)


@proposal.command("show")
@operator_options
@policy_option
@click.argument("id")
def show_(home: Path, server: str | None, output: str, policy_file: Path | None, id: str) -> None:
    """Show a proposal: its reviews, what the policy says, and whether it can be merged.

    \b
    Example:
      snowgate proposal show signs-7f3a9c
    """
    with proposals(home, server, policy_file) as work:
        found = work.show(id)
    show(found, output, tell=_tell)


@proposal.command()
@operator_options
@policy_option
@click.argument("id")
@click.option("--approve/--reject", "approve", required=True, default=None, help="The decision.")
@click.option("--comment", default="", help="Why, in a sentence.")
@key_option
def review(
    home: Path,
    server: str | None,
    output: str,
    policy_file: Path | None,
    id: str,
    approve: bool,
    comment: str,
    key: Path | None,
) -> None:
    """Approve or reject what the branch's head is now, in the place of what serves now; signed.

    \b
    Examples:
      snowgate proposal review signs-7f3a9c --approve --comment "compared on last week" --key ben.pem
      snowgate proposal review signs-7f3a9c --reject --comment "worse at night"
    """
    signer = None if key is None else read_signer(key)
    with proposals(home, server, policy_file) as work:
        found = work.review(id, approve=approve, comment=comment, actor=actor(), signer=signer)
    show(found, output, tell=_tell)


@proposal.command()
@operator_options
@policy_option
@reason_option
@click.argument("id")
@click.option("--canary", type=click.IntRange(1, 99), help="Percentage of units; the stable version keeps the rest.")
@click.option(
    "--retrain", "again", is_flag=True, help="First merge code, parameters and data with what serves now, and train."
)
@click.option("--wait", is_flag=True, help="Wait until the gateway has done it.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
def merge(
    home: Path,
    server: str | None,
    output: str,
    policy_file: Path | None,
    reason: str,
    id: str,
    canary: int | None,
    again: bool,
    wait: bool,
    timeout: float,
) -> int:
    """Let the environment serve the branch's head, if the policy lets it in; a running gateway moves there by itself.

    With --retrain the inputs are merged, never the weights: the code by git, parameters and data against what both
    sides began with. The run makes a bundle with two parents, on the branch, and needs its own reviews.

    \b
    Examples:
      snowgate proposal merge signs-7f3a9c --wait
      snowgate proposal merge signs-7f3a9c --retrain
    """
    with proposals(home, server, policy_file) as work:
        if again:
            if not isinstance(work, Proposals):
                raise OperationError("--retrain trains on this machine, in a home here: give --home, not --server", 422)
            retrain(work, id, actor=actor(), say=progress)
        found = work.merge(id, canary=canary, actor=actor(), reason=reason)
    status = 0
    if wait:
        with operations(home, server) as work_there:
            _deployment, status = wait_for(
                work_there, work_there.deployment(found["model"], found["environment"]), timeout
            )
    show(found, output, tell=_tell)
    return status


@proposal.command()
@operator_options
@reason_option
@click.argument("id")
def close(home: Path, server: str | None, output: str, reason: str, id: str) -> None:
    """End a proposal without merging it.

    \b
    Example:
      snowgate proposal close signs-7f3a9c --reason "superseded"
    """
    with proposals(home, server) as work:
        found = work.close(id, actor=actor(), reason=reason)
    show(found, output, tell=_tell)


def _tell(one: dict[str, Any]) -> None:
    facts(
        [
            ("proposal", one["id"]),
            ("state", one["state"]),
            ("branch", one["branch"]),
            ("head", _version(one["head"])),
            ("for", one["environment"]),
            ("instead of", _version(one["base"])),
            ("text", one["text"]),
            ("by", f"{one['actor']} at {one['time'][:19].replace('T', ' ')} UTC"),
            ("message", one["message"] if one["state"] == "open" else None),
        ]
    )
    if one["verdict"] is not None and one["state"] == "open":
        click.echo()
        tell_verdict(one["verdict"])
    if one["reviews"]:
        click.echo()
        columns: list[Column] = [
            ("review", lambda row: row["decision"]),
            ("by", lambda row: row["by"]),
            ("key", lambda row: row["name"] or str(row["key"])[:16]),
            ("counts", lambda row: "yes" if row["counts"] else "no"),
            ("comment", lambda row: row["comment"] or row["problem"]),
        ]
        table(one["reviews"], columns)


def _version(bundle: dict[str, Any] | None) -> str:
    return "nothing" if bundle is None else f"version {bundle['version']}   {bundle['digest'][:19]}"
