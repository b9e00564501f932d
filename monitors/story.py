"""An incident's story: how shifts become one, grow it, and what the numbers hint at. Pure: no clock, no store."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from monitors.incidents import moved
from monitors.pages import rfc3339
from monitors.signals import Shift

Body = dict[str, Any]
INPUT_STATISTICS = (".mean", ".contrast", ".missing")
"""How the signals that describe an input end, as the runner names them."""


def opened(model: str, bundle: str, environment: str, shifts: Sequence[Shift]) -> Body:
    """Return a new incident for shifts of one model; `open` when one of them pages, else `suspected`."""
    first = min(shifts, key=lambda one: (one.tier != "page", one.onset))
    time = rfc3339(max(one.time for one in shifts))
    # Named by record time, so that a monitor that died and reads the log again finds the same incident.
    name = f"{model}-{time[:19].replace('-', '').replace(':', '').replace('T', '-')}"
    state = "open" if any(one.tier == "page" for one in shifts) else "suspected"
    body: Body = {
        "id": name,
        "cause": "shift",
        "dedup_key": f"snowgate/{environment}/{name}",
        "model": model,
        "version": first.version,
        "versions": [],
        "bundle": bundle,
        "state": state,
        "onset": rfc3339(first.onset),
        "opened": time,
        "updated": time,
        "signals": [],
        "summary": "",
        "evidence": {},
        "rows_since_onset": 0,
        "likely": None,
        "likely_because": "",
        "decision": None,
        "history": [{"time": time, "state": state, "actor": "monitor", "reason": first.sentence}],
    }
    return grown(body, shifts)


def grown(body: Body, shifts: Iterable[Shift]) -> Body:
    """Return an incident with more evidence: each version's signal is in it once, with its newest shares."""
    signals = {(one["version"], one["name"]): one for one in body["signals"]}
    newest = body["updated"]
    for shift in shifts:
        key = (shift.version, shift.signal)
        known = signals.get(key)
        tier = "page" if known is not None and known["tier"] == "page" else shift.tier
        onset, evidence, rows = rfc3339(shift.onset), min(shift.evidence, 1e300), shift.rows
        if known is not None:
            # A detector that fired begins anew, and finds a later onset: the first one is the one. So it is with the
            # strongest evidence.
            onset, evidence = min(onset, known["onset"]), max(evidence, known["evidence"])
            rows = max(rows, known["since_rows"])
        signals[key] = {
            "name": shift.signal,
            "version": shift.version,
            "observed": shift.observed,
            "expected": shift.expected,
            "detector": shift.detector,
            "tier": tier,
            "evidence": evidence,
            "limit": shift.limit,
            "onset": onset,
            "since_rows": rows,
            "sentence": shift.sentence,
        }
        newest = max(newest, rfc3339(shift.time))
    ordered = sorted(signals.values(), key=lambda one: (one["tier"] != "page", one["onset"]))
    paging = [one for one in ordered if one["tier"] == "page"]
    own = [one for one in (paging or ordered) if one["version"] == body["version"]]
    leading = (own or paging or ordered)[0]
    versions = sorted({one["version"] for one in (paging or ordered)})
    rows = max(one["since_rows"] for one in (paging or ordered))
    where = f"{body['model']} version {leading['version']}"
    since = f"since {leading['onset'][11:19]} UTC, {rows} rows"
    return body | {
        "signals": ordered,
        "versions": versions,
        "updated": newest,
        "rows_since_onset": rows,
        "summary": f"{where}: {leading['sentence']} ({since})",
        "evidence": body["evidence"]
        | {
            "value": leading["evidence"],
            "limit": leading["limit"],
            "unit": "seconds",
            "meaning": "one false page is expected in that many seconds for this signal of this version",
        },
    }


def promoted(body: Body, shifts: Sequence[Shift], bundle: str) -> Body:
    """A suspicion became a page: the version that pages is the incident's."""
    first = min((one for one in shifts if one.tier == "page"), key=lambda one: one.onset)
    time = rfc3339(first.time)
    changed = moved(grown(body, shifts), "open", actor="monitor", reason=first.sentence, time=time)
    return changed | {"opened": time, "version": first.version, "bundle": bundle, "onset": rfc3339(first.onset)}


def hinted(body: Body, *, judged: Collection[str]) -> Body:
    """Add what a machine can say about the cause; it never decides.

    judged: the versions of the model that have seen enough rows to be compared with.
    """
    shifted = set(body["versions"])
    inputs = [one for one in body["signals"] if one["name"].endswith(INPUT_STATISTICS) and one["tier"] != "page"]
    steady = sorted(set(judged) - shifted)
    if inputs:
        likely, because = "world", f"the inputs have moved as well: {inputs[0]['sentence']}"
    elif steady:
        likely, because = "model", f"the inputs are quiet, and version {', '.join(steady)} did not shift"
    elif len(shifted) > 1:
        likely, because = "world", f"all {len(shifted)} versions shifted together"
    else:
        likely, because = None, "the inputs are quiet, and there is no other version to compare with"
    return body | {"likely": likely, "likely_because": because}
