"""A proposal as people and scripts read it. Pure, from the documents that say so."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bundles.policy import Policy, Verdict
from bundles.refs import Ref
from bundles.statements import Statement


@dataclass(frozen=True, slots=True)
class Facts:
    """How a proposal stands: the branch's head, what serves now, the policy's verdict, and what is in the way."""

    head: str
    base: str | None
    verdict: Verdict | None
    hindrance: str | None


def proposal_json(
    id: str,
    ref: Ref,
    facts: Facts,
    reviews: Sequence[Statement],
    history: Sequence[Ref],
    policy: Policy,
    version_of: Callable[[str], str | None],
) -> dict[str, Any]:
    """Put together a proposal; `history` begins with its opening.

    `mergeable` says whether `merge` would go through, `message` in one sentence why or why not. Of a review `counts`
    says whether it is about what would be merged now, and `problem` what is wrong with its signature.
    """
    details = ref.details
    opened = history[0]
    shown = facts.hindrance or "can be merged: snowgate proposal merge " + id
    return {
        "id": id,
        "state": details["state"],
        "model": details["model"],
        "branch": details["branch"],
        "environment": details["environment"],
        "text": details["text"],
        "head": {"digest": facts.head, "version": version_of(facts.head)},
        "base": None if facts.base is None else {"digest": facts.base, "version": version_of(facts.base)},
        "base_moved": details["state"] == "open" and facts.base != details["base"],
        "mergeable": facts.hindrance is None,
        "message": shown,
        "verdict": None if facts.verdict is None else facts.verdict.to_json(),
        "reviews": [_review(one, facts, policy) for one in reviews],
        "actor": opened.actor,
        "time": opened.time,
        "history": [{"actor": one.actor, "time": one.time, "event": one.reason} for one in history],
    }


def _review(statement: Statement, facts: Facts, policy: Policy) -> dict[str, Any]:
    said = statement.said
    key = policy.named(statement.keyid)
    return {
        "by": said.get("by"),
        "name": None if key is None else key.name,
        "key": statement.keyid,
        "decision": said.get("decision"),
        "comment": said.get("comment"),
        "base": said.get("base"),
        "time": said.get("time"),
        "counts": statement.keyid is not None and said.get("base") == facts.base,
        "problem": statement.problem or None,
    }
