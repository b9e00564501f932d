"""Signing a word about a bundle: that it was tested, or how a review came out.

Who would not be heard is told so before anything is signed: a key that the policy does not name, that has expired, or
that has another role.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles import signing, statements
from bundles.bundle import open_bundle
from bundles.errors import PolicyError
from bundles.home import Home
from bundles.policy import Policy, Role
from bundles.provenance import PREDICATE_TYPE
from bundles.refs import GitRefs
from gateway.audit import now
from gateway.gate import replaced

Word = Literal["trained", "tested", "failed", "approved", "rejected"]
ROLES: dict[Word, Role] = {
    "trained": "trainer",
    "tested": "tester",
    "failed": "tester",
    "approved": "approver",
    "rejected": "approver",
}
"""The role in which each word is said."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed word about a bundle, not yet beside it; `base` is what a review compared it with."""

    digest: str
    model: str
    base: str | None
    envelope: dict[str, Any]


def sign_word(
    home: Home,
    refs: GitRefs,
    digest: str,
    word: Word,
    signer: CryptoSigner,
    *,
    environment: str,
    comment: str,
    by: str,
) -> Signed:
    """Sign a word; a review is about this environment, and what the bundle would replace there now.

    Raises:
        PolicyError: the key's word would not count.
        UnknownReference, CorruptBundle: the bundle can't be read.
    """
    check_heard(home.policy(), str(signer.public_key.keyid), ROLES[word])
    bundle = open_bundle(home.store(), digest)
    base = None
    if word == "trained":
        kind, predicate = PREDICATE_TYPE, bundle.provenance()
    elif ROLES[word] == "tester":
        kind = statements.TEST_RESULT
        predicate = statements.result_of_test(passed=word == "tested", comment=comment, by=by, time=now())
    else:
        base = replaced(refs, environment, bundle.model, digest)
        approve = word == "approved"
        envelope = sign_review(digest, bundle.model, environment, base, signer, approve=approve, comment=comment, by=by)
        return Signed(digest, bundle.model, base, envelope)
    return Signed(digest, bundle.model, base, signing.sign(digest, bundle.model, kind, predicate, signer))


def sign_review(
    digest: str,
    model: str,
    environment: str,
    base: str | None,
    signer: CryptoSigner,
    *,
    approve: bool,
    comment: str,
    by: str,
) -> dict[str, Any]:
    """Return a signed review of a bundle, for an environment in which it would take the place of `base`."""
    keyid = str(signer.public_key.keyid)
    predicate = statements.approval(
        approve=approve, environment=environment, base=base, comment=comment, by=by, time=now(), keyid=keyid
    )
    return signing.sign(digest, model, statements.VERDICT, predicate, signer)


def check_heard(policy: Policy, keyid: str, role: Role) -> None:
    """Refuse a key whose word in this role nobody would count; without a file all are taken. Raises PolicyError."""
    if policy.environments is None:
        return
    key = policy.named(keyid)
    if key is None:
        known = ", ".join(one.name for one in policy.keys) or "none"
        msg = f"key {keyid[:16]}: {policy.place} does not name it (it names {known}); sign with one that it does: --key"
        raise PolicyError(msg)
    if not key.counts(datetime.now(UTC)):
        msg = f"key {key.name}: expired on {key.expires}, says {policy.place}; sign with another: --key FILE"
        raise PolicyError(msg)
    if role not in key.roles:
        roles = ", ".join(sorted(key.roles)) or "nothing"
        msg = f"key {key.name}: is {roles} and no {role}, says {policy.place}; sign with another: --key FILE"
        raise PolicyError(msg)
