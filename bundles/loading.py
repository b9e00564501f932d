"""Loading: nothing of a bundle runs, or is parsed by a framework, before its signature and every byte are checked."""

from pathlib import Path

from bundles import signing
from bundles.bundle import GOLDEN_PREFIX, MODEL_PREFIX, Bundle, open_bundle
from bundles.errors import UntrustedBundle
from bundles.signing import Keys
from bundles.store import BundleStore


def check_trust(store: BundleStore, digest: str, keys: Keys) -> str:
    """Check that somebody whom this home trusts has signed a bundle, and return the key's id.

    Raises:
        UntrustedBundle: saying who has signed it, and what to type to trust them.
        CorruptBundle: a signature is damaged.
    """
    envelopes = store.attestations(digest)
    if not envelopes:
        msg = f"bundle {digest}: not signed by anybody, and it brings code; pack it in this home, or import it signed"
        raise UntrustedBundle(msg)
    trusted = keys.trusted()
    refused: UntrustedBundle | None = None
    for envelope in envelopes:
        try:
            return signing.verify(envelope, digest, trusted)[0]
        except UntrustedBundle as error:
            refused = error
    assert refused is not None, "there was an envelope, and none was accepted"
    raise refused


def prepare(store: BundleStore, digest: str, keys: Keys, target: Path) -> Bundle:
    """Check a bundle whole and unpack into `target` what a runner needs: `config.json`, `model/`, `golden/`.

    Raises:
        UntrustedBundle: it is not signed by a trusted key.
        CorruptBundle: naming the file that is missing or altered.
    """
    check_trust(store, digest, keys)
    store.verify(digest)
    bundle = open_bundle(store, digest)
    store.copy(bundle.manifest.config, target / "config.json")
    for path, descriptor in bundle.manifest.files().items():
        if path.startswith((MODEL_PREFIX, GOLDEN_PREFIX)):
            store.copy(descriptor, target / path)
    return bundle
