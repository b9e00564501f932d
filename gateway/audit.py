"""Who did what, when and why: one document of live state an action, under a key that sorts by time.

An entry goes in the same commit as the change that it tells of, so that neither is ever there without the other.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time_ns
from typing import Any

from state import MUST_NOT_EXIST, Change

PREFIX = "audit/"


def audit(actor: str, action: str, subject: str, reason: str, details: Mapping[str, Any]) -> Change:
    """Return the change that writes one entry of the audit log."""
    # Two entries of one nanosecond must not become one.
    key = f"{PREFIX}{time_ns():020d}-{secrets.token_hex(4)}"
    entry = {
        "time": now(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "reason": reason,
        "details": dict(details),
    }
    return Change(key, entry, MUST_NOT_EXIST)


def now() -> str:
    """Return this moment, as `rfc3339` writes it."""
    return rfc3339(datetime.now(UTC).timestamp())


def rfc3339(seconds: float) -> str:
    """Write a moment (seconds since the epoch) as RFC 3339 in UTC, with microseconds.

    >>> rfc3339(1_700_000_000.25)
    '2023-11-14T22:13:20.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
