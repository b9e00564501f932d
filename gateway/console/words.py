"""How the console writes things: a number with its unit, a state as a word with a symbol, never colour alone."""

from collections.abc import Mapping, Sequence
from math import isfinite, log10
from typing import Any

from markupsafe import Markup, escape

SYMBOLS = {
    "quiet": "○",
    "warning": "▲",
    "drift": "✖",
    "not-enough-data": "…",
    "suspected": "◌",
    "open": "✖",
    "acknowledged": "◐",
    "decided": "◑",
    "resolved": "✓",
    "starting": "↻",
    "ready": "✓",
    "failed": "✖",
    "parked": "✖",
    "Idle": "○",
    "Progressing": "↻",
    "Paused": "❚❚",
    "Healthy": "✓",
    "Degraded": "▲",
    "Aborted": "✖",
    "done": "✓",
    "current": "▶",
    "waiting": "○",
    "stopped": "✖",
    "here": "✓",
    "altered": "✖",
    "missing": "✖",
    "elsewhere": "○",
}
TONES = {
    "bad": ("drift", "open", "Degraded", "Aborted", "stopped", "altered", "missing", "failed", "parked"),
    "warn": ("warning", "suspected", "acknowledged", "Paused", "Progressing", "current", "starting"),
    "good": ("quiet", "resolved", "Healthy", "done", "here", "decided", "ready"),
}
DASH = "–"
SHARES_SHOWN = 12
"""Categories that a chart shows; of more, those that moved most."""


def badge(state: str) -> Markup:
    """Write a state as symbol and word."""
    tone = next((name for name, states in TONES.items() if state in states), "plain")
    text = state.replace("-", " ").lower()
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(
        tone, SYMBOLS.get(state, "•"), text
    )


def percent(share: float | None, digits: int = 1) -> str:
    """Write a fraction.

    >>> percent(0.0994), percent(None)
    ('9.9 %', '–')
    """
    return DASH if share is None else f"{share * 100:.{digits}f} %"


def points(difference: float) -> str:
    """Write a difference of two fractions, in percentage points.

    >>> points(0.074), points(-0.0004)
    ('+7.4', '0.0')
    """
    text = f"{difference * 100:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def rate(requests_a_second: float | None) -> str:
    """Write a rate.

    >>> rate(41.26), rate(0.2), rate(None)
    ('41.3 req/s', '0.20 req/s', '–')
    """
    if requests_a_second is None:
        return DASH
    return f"{requests_a_second:.2f} req/s" if 0 < requests_a_second < 1 else f"{requests_a_second:,.1f} req/s"


def figure(value: Any) -> str:
    """Write a number that has no unit.

    >>> figure(12_345), figure(0.123456), figure(None), figure("3")
    ('12,345', '0.1235', '–', '3')
    """
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Write a time span, with the unit that suits it.

    >>> duration(0.25), duration(90), duration(10_800), duration(12_441_600), duration(1e300), duration(None)
    ('0.2 s', '90 s', '3.0 h', '144 days', '> 1,000 years', '> 1,000 years')
    """
    if seconds is None or not isfinite(seconds) or seconds > 1_000 * 365.25 * 86_400:
        return "> 1,000 years"
    units = ((365.25 * 86_400, "years", 2), (86_400.0, "days", 2), (3_600.0, "h", 2), (60.0, "min", 2), (1.0, "s", 0))
    for size, name, least in units:
        if seconds >= least * size:
            value = seconds / size
            return f"{value:.1f} {name}" if value < 10 else f"{value:,.0f} {name}"
    return f"{seconds:.1f} s"


def memory(count: int | None) -> str:
    """Write a number of bytes as people read it.

    >>> memory(312_000_000), memory(4_000_000_000), memory(None)
    ('298 MiB', '3.7 GiB', '–')
    """
    if count is None:
        return DASH
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def moment(time: str | None) -> Markup:
    """Write a time (RFC 3339), to the second; the whole of it is in the element.

    >>> str(moment("2026-11-24T01:02:03.456789Z"))
    '<time datetime="2026-11-24T01:02:03.456789Z">2026-11-24 01:02:03 UTC</time>'
    """
    if time is None:
        return escape(DASH)
    return Markup('<time datetime="{}">{} {} UTC</time>').format(time, time[:10], time[11:19])


def short(digest: str | None) -> str:
    """Cut a digest to what tells it apart; a page shows the whole of it where it matters."""
    return DASH if digest is None else digest.removeprefix("sha256:")[:12]


def progress(evidence: float | None, limit: float) -> float:
    """Say how far evidence is on its way to its limit, 0 to 1, in orders of magnitude.

    >>> progress(0, 1e6), round(progress(1e3, 1e6), 2), progress(None, 1e6)
    (0.0, 0.5, 1.0)
    """
    if evidence is None or not isfinite(evidence):
        return 1.0
    return min(1.0, log10(1 + max(0.0, evidence)) / log10(1 + limit))


def shown_shares(shares: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the categories that a chart shows, in their own order: all of a few, else those that moved most."""
    if len(shares) <= SHARES_SHOWN:
        return list(shares)
    moved = sorted(shares, key=lambda one: -abs(one["observed"] - one["expected"]))[:SHARES_SHOWN]
    return [one for one in shares if one in moved]


def shares(observed: Mapping[str, float], expected: Mapping[str, float]) -> list[dict[str, Any]]:
    """Put two distributions side by side."""
    names = sorted(observed.keys() | expected.keys(), key=lambda name: (len(name), name))
    return [{"class": name, "observed": observed.get(name, 0.0), "expected": expected.get(name, 0.0)} for name in names]
