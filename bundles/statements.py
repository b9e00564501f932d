"""What people and machines say about a bundle, and sign: that it was tested, reproduced, approved, let in.

Each is an in-toto statement in a DSSE envelope beside the bundle, so its identity never changes. The predicates are
the field's own; what they have no place for is under `snowgate`:

    tested      test-result v0.1    kind test          the result of a test that somebody vouches for
    reproduced  test-result v0.1    kind reproduction  how near a second training came
    approved    svr v0.2            kind approval      decision, environment, and the bundle that it would replace
    let in      svr v0.2            kind gate          what a policy said when a gateway loaded it

Source: in-toto attestation framework, predicates test-result v0.1 and svr v0.2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from securesystemslib.signer._key import SSlibKey

from bundles import signing
from bundles.errors import UntrustedBundle
from bundles.provenance import PREDICATE_TYPE

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VERDICT = "https://in-toto.io/attestation/svr/v0.2"
COMMENT_CHARACTERS_MAX = 4096
"""A page of text: a statement is read whole at every load, and goes into git with a proposal."""

Kind = Literal["provenance", "test", "reproduction", "approval", "gate", "other"]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `keyid` is None where no known key signed it, and `problem` then says why."""

    keyid: str | None
    kind: Kind
    predicate: Mapping[str, Any]
    problem: str = ""

    @property
    def said(self) -> Mapping[str, Any]:
        """Our own fields."""
        found = self.predicate.get("snowgate")
        return found if isinstance(found, dict) else {}

    @property
    def time(self) -> str:
        """When it was said, in the signer's own word: it orders the words of one signer, and nothing else."""
        return str(self.said.get("time", ""))


def read_statements(envelopes: Iterable[Mapping[str, Any]], digest: str, keys: Sequence[SSlibKey]) -> list[Statement]:
    """Open the envelopes beside a bundle, in their order; those that none of `keys` signed keep only their problem."""
    found = []
    for envelope in envelopes:
        try:
            keyid, statement = signing.verify(dict(envelope), digest, keys)
        except UntrustedBundle as error:
            found.append(Statement(None, "other", {}, str(error)))
            continue
        predicate = statement.get("predicate")
        predicate = predicate if isinstance(predicate, dict) else {}
        found.append(Statement(keyid, _kind(statement.get("predicateType"), predicate), predicate))
    return found


def _kind(predicate_type: Any, predicate: Mapping[str, Any]) -> Kind:
    if predicate_type == PREDICATE_TYPE:
        return "provenance"
    said = predicate.get("snowgate")
    kind = said.get("kind") if isinstance(said, dict) else None
    if predicate_type == TEST_RESULT:
        return "reproduction" if kind == "reproduction" else "test"
    if predicate_type == VERDICT and kind == "approval":
        return "approval"
    return "gate" if predicate_type == VERDICT and kind == "gate" else "other"


def result_of_test(*, passed: bool, comment: str, by: str, time: str) -> dict[str, Any]:
    """Return the predicate by which somebody vouches for a test.

    >>> result_of_test(passed=True, comment="", by="ana", time="2026-11-25T00:00:00.000000Z")["result"]
    'PASSED'
    """
    return {
        "result": "PASSED" if passed else "FAILED",
        "configuration": [],
        "snowgate": {"kind": "test", "comment": comment[:COMMENT_CHARACTERS_MAX], "by": by, "time": time},
    }


def approval(
    *, approve: bool, environment: str, base: str | None, comment: str, by: str, time: str, keyid: str
) -> dict[str, Any]:
    """Return the predicate of a review: for this environment, in the place of `base` (None: nothing is there)."""
    decision = "approve" if approve else "reject"
    return {
        "verifier": {"id": f"snowgate:key:{keyid}"},
        "timeCreated": time,
        "properties": ["SNOWGATE_APPROVED"] if approve else [],
        "snowgate": {
            "kind": "approval",
            "decision": decision,
            "environment": environment,
            "base": base,
            "comment": comment[:COMMENT_CHARACTERS_MAX],
            "role": "approver",
            "by": by,
            "time": time,
        },
    }


def gate(verdict: Mapping[str, Any], *, time: str, keyid: str) -> dict[str, Any]:
    """Return the predicate of what a policy said: `verdict` is a `Verdict` as JSON."""
    met = [f"SNOWGATE_{one['name'].upper()}" for one in verdict["requirements"] if one["met"]]
    return {
        "verifier": {"id": f"snowgate:key:{keyid}"},
        "timeCreated": time,
        "properties": ["SNOWGATE_GATE_PASSED", *met] if verdict["passed"] else met,
        "snowgate": {"kind": "gate", **verdict, "time": time},
    }
