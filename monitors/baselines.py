"""Which baseline a version has: the one that a human's decision made, else the one that its bundle brought."""

import logging

import numpy as np

from bundles.baseline import Baseline, measure
from bundles.bundle import open_bundle
from bundles.home import Home
from monitors.log.errors import LogCorrupt
from monitors.log.reader import LogReader
from state import Change, State

log = logging.getLogger("snowgate.monitor")

ROWS_MIN = 200
"""Rows that a new baseline needs: with fewer, a share of 10 % is known to ±4 points at best and nothing could page."""
ROWS_MAX = 100_000
"""Rows that a new baseline uses: a share of 10 % is then known to ±0.2 points, and reading them takes a second."""


def key_of(model: str, version: str) -> str:
    """Return the key of the document that holds a version's decided baseline."""
    return f"baselines/{model}/{version}"


def baseline_of(state: State, home: Home, model: str, version: str, bundle: str) -> Baseline:
    """Return a version's baseline.

    Raises:
        BundleError: the bundle can't be read, or brings none.
    """
    document = state.get(key_of(model, version))
    if document is not None and document.body["bundle"] == bundle:
        return Baseline.from_json(document.body["baseline"])
    return open_bundle(home.store(), bundle).baseline()


def since(reader: LogReader, model: str, version: str, onset: float, source: str) -> Baseline:
    """Measure a baseline on the logged predictions of a version since a moment (seconds since the epoch).

    Damage in the log ends the measuring: what was read until there is the baseline.
    """
    values: dict[str, list[object]] = {}
    rows = 0
    try:
        for record in reader.records(since=onset):
            if record.kind != "answered" or (record.model, record.version) != (model, version):
                continue
            rows += record.rows
            for name, found in record.signals.items():
                values.setdefault(name, []).extend(found)
            if rows >= ROWS_MAX:
                break
    except LogCorrupt as damage:
        log.warning("%s: the baseline is measured on the %d rows before", damage, rows)
    return measure({name: np.array(found) for name, found in values.items()}, source)


def change(
    model: str, version: str, bundle: str, baseline: Baseline, *, incident: str, actor: str, reason: str, time: str
) -> Change:
    """Return the change that makes a decided baseline the version's own."""
    body = {
        "model": model,
        "version": version,
        "bundle": bundle,
        "baseline": baseline.to_json(),
        "incident": incident,
        "actor": actor,
        "reason": reason,
        "time": time,
    }
    return Change(key_of(model, version), body)
