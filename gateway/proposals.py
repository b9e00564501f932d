"""Proposals: a branch's head for an environment, with text and reviews, until it is merged or closed.

A proposal is a ref of its own in the home's git repository, `refs/proposals/<id>`, and each thing that happens to it is
a small commit. So it needs no server: a folder that people share or any git remote carries it, with its signed reviews
in it. While it is open it follows its branch. A review is about one digest in the place of one base; when either moves,
it counts no more. Merging asks the policy, and then moves the environment's ref by one compare-and-swap from the very
base that was asked about: of two who merge at once one wins, and the other is told what is there now.
"""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles.errors import BundleError, RefConflict
from bundles.home import Home
from bundles.policy import Verdict
from bundles.refs import NAME, Ref
from bundles.statements import read_statements
from gateway.audit import audit
from gateway.gate import assess, replaced, utc
from gateway.operations import OperationError, Operations, environment_ref, rejection_key
from gateway.proposal_json import Facts, proposal_json
from gateway.together import branch_ref
from gateway.vouching import check_heard, sign_review

PREFIX = "refs/proposals/"
TEXT_CHARACTERS_MAX = 5_000
"""A page or two, in every commit of the proposal; escaped in JSON, at 12 bytes each, they fit in a body of 64 KiB."""
REVIEWS_MAX = 200
"""Each takes about 1.2 KiB, in every commit that follows it."""
ATTEMPTS_MAX = 50
"""A change is made again when somebody else changed the proposal first; each time one of all has got through."""


class Proposals:
    """The proposals of one home."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._home, self._state, self._refs = operations.home, operations.state, operations.refs

    @property
    def home(self) -> Home:
        """The home."""
        return self._home

    def open(self, branch: str, environment: str, *, text: str, actor: str) -> dict[str, Any]:
        """Propose the head of a branch for an environment.

        Raises:
            OperationError: no such branch (404); it serves there already (409); a bad name, or too long (422).
        """
        head = self._refs.get(branch_ref(branch))
        if head is None or head.digest is None:
            raise OperationError(
                f"{branch}: no such branch; snowgate bundle fork REF {branch} begins one, and "
                "snowgate train --branch puts the next bundle there",
                404,
            )
        if len(text) > TEXT_CHARACTERS_MAX:
            raise OperationError(f"text: {len(text)} characters, expected at most {TEXT_CHARACTERS_MAX}", 422)
        model = branch.partition("@")[0]
        base = self._base(environment, model)
        if base == head.digest:
            raise OperationError(f"{branch}: its head serves in {environment} already: nothing to propose", 409)
        name = f"{model[:100]}-{secrets.token_hex(3)}"
        details: dict[str, Any] = {
            "model": model,
            "branch": branch,
            "environment": environment,
            "text": text,
            "base": base,
            "state": "open",
            "reviews": [],
        }
        self._state.commit(audit(actor, "propose", model, text, {"proposal": name, "digest": head.digest, **details}))
        reason = f"opened: {text}"
        self._refs.set(PREFIX + name, head.digest, expected=None, actor=actor, reason=reason, details=details)
        return self.show(name)

    def list(self, state: str = "open") -> list[dict[str, Any]]:
        """Return all proposals in a state (open, merged, closed, or all), newest first."""
        found = [ref for ref in self._refs.list(PREFIX) if state in ("all", ref.details["state"])]
        shown = [self.show(ref.name.removeprefix(PREFIX)) for ref in found]
        return sorted(shown, key=lambda one: str(one["time"]), reverse=True)

    def show(self, id: str) -> dict[str, Any]:
        """Return all that is known of a proposal, and whether it could be merged now. Raises OperationError (404)."""
        return self._json(id, self._get(id))

    def review(
        self, id: str, *, approve: bool, comment: str, actor: str, signer: CryptoSigner | None = None
    ) -> dict[str, Any]:
        """Approve or reject what the branch's head is now, signed with a key: the home's own, if none is given.

        Raises:
            OperationError: unknown (404), not open (409), or the key's word would not count (422).
        """
        ref = self._get(id)
        head, base = self._head(ref), self._base(ref.details["environment"], ref.details["model"])
        try:
            key = self._home.keys().signer() if signer is None else signer
            check_heard(self._home.policy(), str(key.public_key.keyid), "approver")
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        where = ref.details["environment"]
        model = ref.details["model"]
        signed = sign_review(head, model, where, base, key, approve=approve, comment=comment, by=actor)
        return self.add_review(id, signed, actor=actor)

    def add_review(self, id: str, envelope: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Take in a review that was signed elsewhere: about the head as it is now, in the place of what serves now.

        Raises:
            OperationError: unknown (404); not open, or the head or the base has moved (409); not a review by a key
                whose word counts (422).
        """
        ref = self._get(id)
        head, base = self._head(ref), self._base(ref.details["environment"], ref.details["model"])
        try:
            policy = self._home.policy()
            (statement,) = read_statements([envelope], head, policy.public_keys())
            if statement.kind != "approval" or statement.said.get("environment") != ref.details["environment"]:
                where = f"{head[:19]} for {ref.details['environment']}"
                problem = statement.problem or f"what was signed is no review of {where}"
                raise OperationError(f"proposal {id}: {problem}", 422)
            check_heard(policy, str(statement.keyid), "approver")
            if statement.said.get("base") != base:
                raise OperationError(
                    f"proposal {id}: {_moved(ref.details['environment'])}; look again, and review", 409
                )
            self._home.store().attach(head, dict(envelope))
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        decision = str(statement.said.get("decision"))
        comment = str(statement.said.get("comment") or "")

        def change(details: dict[str, Any]) -> dict[str, Any]:
            if len(details["reviews"]) >= REVIEWS_MAX:
                raise OperationError(f"proposal {id}: has {REVIEWS_MAX} reviews; close it, and open another", 422)
            # Who approved has looked at what serves now: from here on it is the base.
            seen = {"base": base} if decision == "approve" else {}
            return {**details, **seen, "reviews": [*details["reviews"], dict(envelope)]}

        entry = {"proposal": id, "digest": head, "base": base, "decision": decision, "key": statement.keyid}
        self._state.commit(audit(actor, "review", ref.details["model"], comment, entry))
        return self._change(id, head, change, actor=actor, reason=f"{decision}: {comment}")

    def close(self, id: str, *, actor: str, reason: str = "") -> dict[str, Any]:
        """End a proposal without merging it. Raises OperationError: unknown (404), or not open (409)."""
        ref = self._open(id)
        self._state.commit(audit(actor, "close", ref.details["model"], reason, {"proposal": id}))
        closed = f"closed: {reason}"
        return self._change(
            id, self._head(ref), lambda details: {**details, "state": "closed"}, actor=actor, reason=closed
        )

    def rebased(self, id: str, base: str | None, *, actor: str, reason: str) -> dict[str, Any]:
        """Note that the branch's head was made anew on what serves now: that is the base from here on."""
        ref = self._open(id)
        return self._change(id, self._head(ref), lambda details: {**details, "base": base}, actor=actor, reason=reason)

    def merge(self, id: str, *, canary: int | None = None, actor: str, reason: str = "") -> dict[str, Any]:
        """Make the branch's head what the environment desires, if the policy lets it in.

        Raises:
            OperationError: unknown (404); not open, refused by the policy, rejected in the environment before, or the
                environment has moved, with what to type (409); a bad canary (422).
        """
        if canary is not None and not 1 <= canary <= 99:
            raise OperationError(f"canary {canary} %: expected 1 to 99; leave it out to give it all traffic", 422)
        ref = self._open(id)
        environment, model = ref.details["environment"], ref.details["model"]
        name, head = environment_ref(environment, model), self._head(ref)
        before = self._refs.get(name)
        base = None if before is None else before.digest
        if before is None or base != head:  # Else we did this already, and died before we could say so.
            facts = self._facts(ref)
            if facts.hindrance is not None:
                raise OperationError(f"proposal {id}: {facts.hindrance}", 409)
            version = self._refs.version_of(head, model)
            entry = {"proposal": id, "environment": environment, "digest": head, "version": version, "base": base}
            try:
                self._keep_reviews(ref, head)
                self._state.commit(audit(actor, "merge", model, reason, entry | {"canary": canary}))
                self._refs.set(
                    name,
                    head,
                    expected=None if before is None else before.commit,
                    actor=actor,
                    reason=reason or f"merge proposal {id}",
                    details={"model": model, "version": version, "canary": canary, "proposal": id},
                )
            except RefConflict as error:
                raise OperationError(
                    f"proposal {id}: {_moved(environment)} at this moment; {_next(id)}", 409
                ) from error
            except BundleError as error:
                raise OperationError(str(error), 422) from error
        merged = {"state": "merged"}
        return self._change(id, head, lambda details: {**details, **merged}, actor=actor, reason=f"merged: {reason}")

    def _keep_reviews(self, ref: Ref, head: str) -> None:
        """Put the reviews beside the bundle: where the proposal came through git they are only in it."""
        policy = self._home.policy()
        for envelope in ref.details["reviews"]:
            (statement,) = read_statements([envelope], head, policy.public_keys())
            if statement.keyid is not None:
                self._home.store().attach(head, envelope)

    def _change(
        self, id: str, head: str, change: Callable[[dict[str, Any]], dict[str, Any]], *, actor: str, reason: str
    ) -> dict[str, Any]:
        for _attempt in range(ATTEMPTS_MAX):
            ref = self._open(id)
            try:
                changed = self._refs.set(
                    ref.name, head, expected=ref.commit, actor=actor, reason=reason, details=change(dict(ref.details))
                )
            except RefConflict:
                continue
            return self._json(id, changed)
        raise OperationError(f"proposal {id}: others change it all the time; try again", 409)

    def _get(self, id: str) -> Ref:
        ref = self._refs.get(PREFIX + id) if NAME.fullmatch(id) else None
        if ref is None:
            raise OperationError(f"proposal {id[:128]}: unknown; `snowgate proposal list` shows all", 404)
        return ref

    def _open(self, id: str) -> Ref:
        ref = self._get(id)
        if ref.details["state"] != "open":
            raise OperationError(f"proposal {id}: was {ref.details['state']} by {ref.actor} at {ref.time}", 409)
        return ref

    def _head(self, ref: Ref) -> str:
        """What the branch names now; where it was merged, closed or not fetched, what the proposal named last."""
        branch = self._refs.get(branch_ref(ref.details["branch"])) if ref.details["state"] == "open" else None
        return str(ref.digest if branch is None or branch.digest is None else branch.digest)

    def _base(self, environment: str, model: str) -> str | None:
        ref = self._refs.get(environment_ref(environment, model))
        return None if ref is None else ref.digest

    def _facts(self, ref: Ref) -> Facts:
        """Find out what stands in the way of a merge."""
        head, environment, model = self._head(ref), ref.details["environment"], ref.details["model"]
        base = self._base(environment, model)
        verdict: Verdict | None = None
        problem = None
        if ref.details["state"] != "open":
            base = replaced(self._refs, environment, model, head)
            return Facts(head, base, None, f"was {ref.details['state']}")
        try:
            verdict = assess(self._home, self._refs, head, environment, base, ref.details["reviews"], moment=utc())
        except BundleError as error:
            problem = str(error)
        rejection = self._state.get(rejection_key(environment, head))
        if rejection is not None:
            why = f"{rejection.body['actor']}: {rejection.body['reason']}"
            problem = f"its head was rejected in {environment} by {why}; train on, on {ref.details['branch']}"
        elif base == head:
            problem = f"its head serves in {environment} already"
        elif base != ref.details["base"]:
            problem = f"{_moved(environment)} since this was proposed; {_next(ref.name.removeprefix(PREFIX))}"
        elif verdict is not None and not verdict.passed:
            problem = f"the policy does not let it into {environment}: {verdict}"
        return Facts(head, base, verdict, problem)

    def _json(self, id: str, ref: Ref) -> dict[str, Any]:
        def version_of(digest: str) -> str | None:
            return self._refs.version_of(digest, ref.details["model"])

        facts = self._facts(ref)
        history = self._refs.history(ref.name, REVIEWS_MAX * 2)[::-1]
        try:
            policy = self._home.policy()
        except BundleError as error:
            raise OperationError(str(error), 422) from error
        reviews = read_statements(ref.details["reviews"], facts.head, policy.public_keys())
        return proposal_json(id, ref, facts, reviews, history, policy, version_of)


def _moved(environment: str) -> str:
    return f"{environment} has moved"


def _next(id: str) -> str:
    return (
        f"compare with what is there now, then snowgate proposal review {id} --approve, "
        f"or train on both: snowgate proposal merge {id} --retrain"
    )
