"""Loading: nothing of a bundle runs, or is parsed by a framework, before every byte is checked, and who signed it.

What can run at all is said by `formats.executable`; a bundle of data alone needs its digests only.
"""

import json
from pathlib import Path

from bundles import signing
from bundles.bundle import GOLDEN_PREFIX, MODEL_PREFIX, Bundle, open_bundle
from bundles.errors import UntrustedBundle
from bundles.runner.sklearn_skops import TRUSTED
from bundles.signing import Keys
from bundles.store import BundleStore


def check_trust(store: BundleStore, digest: str, keys: Keys) -> str | None:
    """Check that somebody whom this home trusts has signed a bundle, and return the key's id.

    A bundle of which nothing can run here needs no trust, only its digests: then None says that nobody is trusted.

    Raises:
        UntrustedBundle: saying who has signed it, and what to type to trust them.
        CorruptBundle: a signature is damaged.
    """
    runs = open_bundle(store, digest).executable
    code = ", ".join(runs[:3])
    refused = UntrustedBundle(
        f"bundle {digest}: not signed by anybody, and it brings code ({code}); "
        "pack it in this home, or import it signed"
    )
    trusted = keys.trusted()
    for envelope in store.attestations(digest):
        try:
            return signing.verify(envelope, digest, trusted)[0]
        except UntrustedBundle as error:
            refused = error
    if runs:
        raise refused
    return None


def prepare(store: BundleStore, digest: str, keys: Keys, target: Path) -> Bundle:
    """Check a bundle whole and unpack into `target` what a runner needs: `config.json`, `model/`, `golden/`.

    Raises:
        UntrustedBundle: something of it can run, and it is not signed by a trusted key.
        CorruptBundle: naming the file that is missing or altered.
    """
    check_trust(store, digest, keys)
    store.verify(digest)
    bundle = open_bundle(store, digest)
    store.copy(bundle.manifest.config, target / "config.json")
    for path, descriptor in bundle.manifest.files().items():
        if path.startswith((MODEL_PREFIX, GOLDEN_PREFIX)):
            store.copy(descriptor, target / path)
    allow_types(bundle.config["loader"], keys, target)
    return bundle


def allow_types(loader: str, keys: Keys, target: Path) -> None:
    """Put beside an unpacked bundle which types its model may be made of: this home's list, never the bundle's."""
    if loader == "sklearn":
        (target / TRUSTED).write_text(json.dumps(keys.trusted_types()))
