"""Forgetting a unit, or single predictions: payloads go, everywhere, and the log still proves what it proved.

Who may be asked for it: anybody whose data a model was given. Kept are the headers: that there was a prediction, when,
by which version, with which outcome and signals. They name the unit by a keyed hash only, and without the key
(`keys/unit.key`) nobody can tell whose it is.

Two entries of the audit log say who, why and how much: one before anything is erased, so that nothing is erased that
nobody answers for, and one after it. Neither has the unit in the clear.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from typing import Any

from bundles.errors import BundleError
from bundles.home import Home
from gateway.audit import audit, now
from gateway.keys import read_unit_key, unit_hash
from gateway.labels import Labels
from gateway.notary import HomeNotary
from gateway.operations import OperationError
from monitors.log import forget as segments
from monitors.log import tensors
from monitors.log.erasures import note_erasures
from monitors.log.errors import LogError
from monitors.log.forget import Found, Wanted
from monitors.log.label_files import withdraw_labels
from monitors.log.sealing import sealing
from state import State

Eraser = Callable[[Home, Found], Mapping[str, int]]
"""Erases what is kept, beside the segments, of the records that were found; says how much of what it erased."""


def erase_tensor_files(home: Home, _found: Found) -> Mapping[str, int]:
    """Erase the files of large tensors that no other record names."""
    return {"tensor_files": tensors.collect(home.log).files}


def erase_labels(home: Home, found: Found) -> Mapping[str, int]:
    """Erase what was said of the predictions, and the way from their clients' ids to them."""
    with closing(Labels(home)) as labels:
        erased = labels.forget(found.ids)
    if erased:
        with sealing(home.log, wait=True):
            withdraw_labels(home.log)
    return {"labels": erased}


ERASERS: tuple[Eraser, ...] = (erase_tensor_files, erase_labels)
"""In this order, when the payloads in the segments are gone: what is made from them can be made anew then."""


def forget(
    home: Home, state: State, *, unit: str | None, ids: Collection[str], actor: str, reason: str
) -> dict[str, Any]:
    """Erase the payloads of a unit's records, and of single ones. What runs beside it need not be stopped.

    Raises:
        OperationError: no reason, nobody named, or no prediction id (422); nothing of them in the log (404); damage in
            the log, behind which their payloads may still be (500).
    """
    if not reason.strip():
        raise OperationError("forgetting needs a reason: --reason, one sentence for those who read it later", 422)
    if unit is None and not ids:
        raise OperationError("nobody is named: give --unit UNIT, or --prediction ID", 422)
    hashes = [] if unit is None else _hashes(home, unit)
    try:
        wanted = Wanted(frozenset(hashes), frozenset(one.lower() for one in ids))
    except ValueError as error:
        raise OperationError(str(error), 422) from error
    found = segments.find(home.log, wanted)
    if not found.ids:
        whom = "no prediction of this unit" if unit is not None else "none of these predictions"
        raise OperationError(f"{whom} is in the log of home {home.path}; is it another home's (--home)?", 404)
    subject = f"unit {hashes[0]:014x}" if hashes else f"prediction {min(wanted.ids)}"
    told: dict[str, Any] = {"predictions": sorted(wanted.ids)}
    state.commit(audit(actor, "forget", subject, reason, told | _counted(found)))
    try:
        notary = HomeNotary(home.keys())
        found = segments.erase(home.log, wanted, lambda gone: note_erasures(home.log, notary, now(), gone))
        told |= _counted(found)
        for eraser in ERASERS:
            told |= eraser(home, found)
    except (LogError, OSError, BundleError) as error:
        raise OperationError(f"{subject}: not all of it is erased: {error}; forget it again", 500) from error
    state.commit(audit(actor, "forgotten", subject, reason, told))
    if found.damage:
        damage = "; ".join(map(str, found.damage))
        raise OperationError(f"{subject}: what can be read of it is erased, and this can't be read: {damage}", 500)
    return {"subject": subject} | told


def _counted(found: Found) -> dict[str, int]:
    return {"records": len(found.ids), "payloads": found.payloads}


def _hashes(home: Home, unit: str) -> list[int]:
    file = home.path / "keys" / "unit.key"
    if not file.exists():
        raise OperationError(f"home {home.path} has never logged a unit; is it another home's (--home)?", 404)
    key = read_unit_key(file)
    # A header's bytes are read as Latin-1; what a client sent as UTF-8 was hashed in that disguise.
    return list(dict.fromkeys(unit_hash(one, key) for one in (unit, unit.encode().decode("latin-1"))))
