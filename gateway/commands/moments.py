"""Moments that people type: a time as RFC 3339 has it, or how long ago."""

import re
import time
from datetime import UTC, datetime

import click

AGE = re.compile(r"(\d{1,9})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Return seconds since the epoch: a callback for options such as `--since 24h`. A time without a zone is UTC.

    >>> command = click.Command("x")
    >>> moment(click.Context(command), click.Option(["--since"]), "2023-11-14T22:13:20Z")
    1700000000.0
    """
    if value is None:
        return None
    age = AGE.fullmatch(value)
    if age is not None:
        return time.time() - int(age[1]) * SECONDS[age[2]]
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        msg = f"{value!r}: expected a time such as 2026-11-24T08:00:00Z, or an age such as 15m, 24h or 7d"
        raise click.BadParameter(msg, ctx, param) from None
    return found.replace(tzinfo=found.tzinfo or UTC).timestamp()
