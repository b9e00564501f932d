"""Loading: nothing of a bundle runs, or is parsed by a framework, before every byte is checked, and who signed it.

What can run at all is said by `content.executable`; a bundle of data alone needs its digests only.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bundles.bundle import GOLDEN_PREFIX, MODEL_PREFIX, Bundle, open_bundle
from bundles.errors import UntrustedBundle
from bundles.policy import Policy, Subject, trust
from bundles.runner.sklearn_skops import TRUSTED
from bundles.statements import Statement, read_statements
from bundles.store import BundleStore


def subject_of(store: BundleStore, digest: str, reference: str | None = None) -> Subject:
    """Return what a policy must know of a bundle. Raises UnknownReference, CorruptBundle."""
    bundle = open_bundle(store, digest)
    return Subject(digest, reference or digest, frozenset(bundle.executable))


def statements_of(store: BundleStore, digest: str, policy: Policy) -> list[Statement]:
    """Return what was said about a bundle, checked against the policy's keys. Raises CorruptBundle."""
    return read_statements(store.attestations(digest), digest, policy.public_keys())


def check_trust(store: BundleStore, digest: str, policy: Policy) -> str:
    """Check that what a bundle executes was brought in by somebody whom the policy trusts; say who it was.

    Raises:
        UntrustedBundle: saying who has signed it, and what to type to trust them.
        CorruptBundle: a signature is damaged.
    """
    found = trust(policy, statements_of(store, digest, policy), subject_of(store, digest), datetime.now(UTC))
    if not found.met:
        msg = f"bundle {digest}: {found.found}; {found.todo}"
        raise UntrustedBundle(msg)
    return found.found


def prepare(store: BundleStore, digest: str, policy: Policy, target: Path) -> Bundle:
    """Check a bundle whole and unpack into `target` what a runner needs: `config.json`, `model/`, `golden/`.

    Raises:
        UntrustedBundle: what it executes is not signed by a trusted key.
        CorruptBundle: naming the file that is missing or altered.
    """
    check_trust(store, digest, policy)
    return unpack(store, digest, target, policy.types)


def unpack(store: BundleStore, digest: str, target: Path, types: Sequence[str]) -> Bundle:
    """Do the same for a bundle that was let in by whoever calls; `types` are those that the policy trusts.

    Raises CorruptBundle.
    """
    store.verify(digest)
    bundle = open_bundle(store, digest)
    store.copy(bundle.manifest.config, target / "config.json")
    for path, descriptor in bundle.manifest.files().items():
        if path.startswith((MODEL_PREFIX, GOLDEN_PREFIX)):
            store.copy(descriptor, target / path)
    allow_types(bundle.config["loader"], types, target)
    return bundle


def allow_types(loader: str, types: Sequence[str], target: Path) -> None:
    """Put beside an unpacked bundle which types its model may be made of: the policy's list, never the bundle's."""
    if loader == "sklearn":
        (target / TRUSTED).write_text(json.dumps(list(types)))
