"""The gate: before a gateway loads a bundle for an environment, the operator's policy says whether it may.

The verdict is written down, as an entry of the audit log and as a statement that the home's key signs beside the
bundle: once for a bundle, environment, base and policy, and again only when it is another one. What has passed stays in
as long as the policy says the same: a gateway that starts again on a Sunday must not refuse what it served on Saturday
because an approver's key has expired since. Whoever wants it out changes the policy, or withdraws it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bundles import signing, statements
from bundles.bundle import open_bundle
from bundles.errors import PolicyError
from bundles.home import Home
from bundles.loading import statements_of, subject_of
from bundles.policy import Subject, Verdict, judge
from bundles.refs import GitRefs
from gateway.audit import audit, now
from state import State

HISTORY_MAX = 1_000
"""Moves of an environment's ref that are looked through for what a bundle replaced: years of daily deployments."""
MOVED_BACK = "moved_back"
"""A move of a ref with this detail was control's, back from a version that was rejected: nobody chose it anew."""


def assess(
    home: Home,
    refs: GitRefs,
    digest: str,
    environment: str,
    base: str | None,
    more: Sequence[Mapping[str, Any]] = (),
    *,
    moment: datetime,
) -> Verdict:
    """Ask the home's policy about a bundle in an environment, in the place of `base`, at a moment.

    `more` are signed statements that are not beside the bundle yet.

    Raises:
        PolicyError: the policy can't be read.
        UnknownReference, CorruptBundle: the bundle can't.
    """
    policy = home.policy()
    said = [
        *statements_of(home.store(), digest, policy),
        *statements.read_statements(more, digest, policy.public_keys()),
    ]
    return judge(policy, said, _subject(home, refs, digest), environment=environment, base=base, now=moment)


def replaced(refs: GitRefs, environment: str, model: str, digest: str) -> str | None:
    """Return the bundle in whose place another one is, or would be, desired in an environment; None for nothing.

    For one that is desired, or was, that is what the ref named before somebody moved it there last.
    """
    history = refs.history(f"refs/environments/{environment}/{model}", HISTORY_MAX)
    befores = [*(one.digest for one in history[1:]), None]
    for ref, before in zip(history, befores, strict=False):
        if ref.digest == digest != before and not ref.details.get(MOVED_BACK):
            return before
    return history[0].digest if history else None


class Gate:
    """The gate of one running gateway. `clock` says which keys have expired."""

    def __init__(self, home: Home, state: State, environment: str, clock: Callable[[], datetime]) -> None:
        self._home, self._state, self._environment, self._clock = home, state, environment, clock

    def check(self, digest: str) -> None:
        """Let a bundle in, or raise PolicyError: what is missing, and what to type. Raises what `assess` does."""
        policy = self._home.policy()
        refs = self._home.refs()
        bundle = open_bundle(self._home.store(), digest)
        base = replaced(refs, self._environment, bundle.model, digest)
        said = [] if policy.environments is None else self._said(digest)
        asked = {"environment": self._environment, "base": base, "policy": policy.digest}
        if any(one["passed"] and asked.items() <= one.items() for one in said):
            return
        verdict = assess(self._home, refs, digest, self._environment, base, moment=self._clock())
        if policy.environments is not None and verdict.to_json() not in said:
            self._write_down(verdict, bundle.model)
        if not verdict.passed:
            version = refs.version_of(digest, bundle.model) or digest[7:19]
            again = f"then: snowgate deploy {bundle.model}@{version} --to {self._environment}"
            raise PolicyError(f"{policy.place} does not let it into {self._environment}: {verdict}; {again}")

    def _said(self, digest: str) -> list[dict[str, Any]]:
        """Return the earlier verdicts that this home signed."""
        own = [self._home.keys().signer().public_key]
        found = statements.read_statements(self._home.store().attestations(digest), digest, own)
        return [
            {key: value for key, value in one.said.items() if key not in ("kind", "time")}
            for one in found
            if one.kind == "gate"
        ]

    def _write_down(self, verdict: Verdict, model: str) -> None:
        signer = self._home.keys().signer()
        said = verdict.to_json()
        # The entry first: a verdict that is written twice after a crash is better than one that is in no log.
        self._state.commit(audit("control", "gate", model, str(verdict), said))
        predicate = statements.gate(said, time=now(), keyid=signer.public_key.keyid)
        self._home.store().attach(
            verdict.digest, signing.sign(verdict.digest, model, statements.VERDICT, predicate, signer)
        )


def utc() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


def _subject(home: Home, refs: GitRefs, digest: str) -> Subject:
    model = open_bundle(home.store(), digest).model
    version = refs.version_of(digest, model)
    return subject_of(home.store(), digest, digest if version is None else f"{model}@{version}")
