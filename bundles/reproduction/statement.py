"""The verdict as a signed statement beside the bundle: an in-toto test result.

A run with other data, code, parameters or seeds is a `rehearsal`: it says something about the bundle, but it is not a
reproduction of it, and a policy that asks for a test or a reproduction must not take it for one. So it has a type of
its own.

Source: in-toto attestation framework, predicate test-result v0.1.
"""

from collections.abc import Sequence
from typing import Any

from securesystemslib.signer._key import SSlibKey

from bundles import signing
from bundles.errors import UntrustedBundle
from bundles.home import Home
from bundles.reproduction.words import DIFFERENCE_MAX, PASSED
from bundles.store import BundleStore

PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
REHEARSAL_TYPE = "https://snowgate.dev/rehearsal/v1"
REPRODUCTION, REHEARSAL = "reproduction", "rehearsal"
TYPES = {REPRODUCTION: PREDICATE_TYPE, REHEARSAL: REHEARSAL_TYPE}
BESIDE = ("digest", "model", "version", "lost", "floor_agreements", "margin")
"""What of a result is not in the statement: what it is about anyway, and what can be worked out."""


def attach(home: Home, digest: str, model: str, result: dict[str, Any]) -> None:
    """Sign a result with the home's key and put it beside the bundle."""
    predicate = {
        "result": "PASSED" if result["verdict"] in PASSED else "FAILED",
        "configuration": [
            {"name": "tolerance", "annotations": {"max_difference": DIFFERENCE_MAX, "floor": result["floor"]}}
        ],
        "snowgate": {name: value for name, value in result.items() if name not in BESIDE},
    }
    store = home.store()
    store.attach(digest, signing.sign(digest, model, TYPES[result["kind"]], predicate, home.keys().signer()))


def reproductions(store: BundleStore, digest: str, trusted: Sequence[SSlibKey]) -> list[dict[str, Any]]:
    """Return what trusted keys have said about training a bundle again, newest first, each with its `key`.

    Raises:
        CorruptBundle: a statement is damaged.
    """
    found = []
    for envelope in store.attestations(digest):
        try:
            key, statement = signing.verify(envelope, digest, trusted)
        except UntrustedBundle:
            continue
        predicate = statement.get("predicate")
        said = predicate.get("snowgate") if isinstance(predicate, dict) else None
        if isinstance(said, dict) and statement.get("predicateType") == TYPES.get(str(said.get("kind"))):
            found.append(said | {"key": key})
    return sorted(found, key=lambda one: str(one.get("time")), reverse=True)


def last(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the last reproduction of those; rehearsals are none."""
    return next((one for one in found if one["kind"] == REPRODUCTION), None)
