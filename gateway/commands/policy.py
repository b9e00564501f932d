"""`snowgate policy`."""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from bundles.policy_file import schema as policy_schema
from gateway.commands.options import (
    NounGroup,
    environment_option,
    home_option,
    output_option,
    policed_home,
    policy_option,
    together_here,
)
from gateway.output import Column, facts, show, table


@click.group(cls=NounGroup)
def policy() -> None:
    """See whose words about bundles count here, and what an environment asks for."""


@policy.command("show")
@home_option
@output_option
@policy_option
def show_(home: Path, output: str, policy_file: Path | None) -> None:
    """Show the keys that count, in which roles, and what each environment asks for.

    \b
    Example:
      snowgate policy show
    """
    found = policed_home(home, policy_file).policy()
    keys = [
        {
            "name": one.name,
            "key": one.key.keyid,
            "roles": sorted(one.roles),
            "executes": sorted(one.executes),
            "expires": None if one.expires is None else one.expires.isoformat(),
        }
        for one in found.keys
    ]
    environments = [
        {
            "name": name,
            "trained": one.trained,
            "tested": one.tested,
            "reproduced": one.reproduced,
            "approved": one.approved,
        }
        for name, one in sorted((found.environments or {}).items())
    ]
    result = {
        "place": found.place,
        "digest": found.digest,
        "file": found.environments is not None,
        "keys": keys,
        "environments": environments,
    }
    show(result, output, name="digest", tell=_tell)


@policy.command()
@home_option
@output_option
@policy_option
@environment_option
@click.argument("reference")
def check(home: Path, output: str, policy_file: Path | None, environment: str, reference: str) -> int:
    """Say whether a bundle may serve in an environment, as the gate would; exits with 1 when it may not.

    \b
    Example:
      snowgate policy check signs@8 --to production
    """
    with together_here(home, policy_file) as work:
        verdict = work.check(reference, environment)
    show(verdict, output, name="passed", tell=tell_verdict)
    return 0 if verdict["passed"] else 1


@policy.command()
def schema() -> None:
    """Print the JSON Schema of policy.toml.

    \b
    Example:
      snowgate policy schema > policy.schema.json
    """
    click.echo(json.dumps(policy_schema(), indent=2))


def tell_verdict(verdict: dict[str, Any]) -> None:
    """Print a verdict, demand by demand."""
    columns: list[Column] = [
        ("demand", lambda one: one["name"]),
        ("met", lambda one: "yes" if one["met"] else "NO"),
        ("found", lambda one: one["found"]),
        ("to do", lambda one: one["todo"]),
    ]
    table(verdict["requirements"], columns)


def _tell(one: dict[str, Any]) -> None:
    facts([("policy", one["place"] if one["file"] else "none: the home's key and trusted ones may do everything")])
    table(one["keys"], _columns("name", "roles", "executes", "expires", "key"))
    if one["environments"]:
        click.echo()
        table(one["environments"], _columns("name", "trained", "tested", "reproduced", "approved"))


def _columns(*names: str) -> list[Column]:
    return [(name, itemgetter(name)) for name in names]
