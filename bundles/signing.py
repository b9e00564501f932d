"""Signatures and trust: DSSE envelopes around in-toto statements, ed25519, offline.

A home has a key of its own, made at first use, with which `train` and `pack` sign. That key is trusted in this home
and nowhere else. Whatever comes from elsewhere is trusted when its key was put in `keys/trusted/` by `snowgate bundle
trust`; the store never says whom to trust.

Source: DSSE 1.0 protocol.md; in-toto Statement v1.
"""

import copy
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import FormatError, VerificationError
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from bundles.errors import BundleError, HomeError, UntrustedBundle

PAYLOAD_TYPE = "application/vnd.in-toto+json"
TRUST_HINT = "; if you trust the signer: snowgate bundle trust KEY.pub"
STATEMENT = "https://in-toto.io/Statement/v1"
TYPES = "types.txt"


class Keys:
    """The keys of one home: its own, and those that it trusts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def signer(self) -> CryptoSigner:
        """Return the home's own key, made at first use, readable by its owner only. Raises HomeError."""
        path = self._path / "home.pem"
        try:
            if not path.exists():
                self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
                make_key(path)
        except OSError as error:
            msg = f"{path}: can't be made: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        return read_signer(path)

    def trusted(self) -> list[SSlibKey]:
        """Return the public keys whose signatures count here: see `named`. Raises HomeError."""
        return list(self.named().values())

    def named(self) -> dict[str, SSlibKey]:
        """Return them by name: `home` is the home's own, those in `trusted/` are called by their files.

        A home that has signed nothing yet has no key of its own, and looking must not make one. Raises HomeError.
        """
        own = {"home": self.signer().public_key} if (self._path / "home.pem").exists() else {}
        files = sorted((self._path / "trusted").glob("*.pub"))
        return own | {path.stem: public_key(path) for path in files}

    def trust(self, path: Path) -> str:
        """Trust a public key (a PEM file) from now on, and return its id. Raises BundleError."""
        key = public_key(path)
        folder = self._path / "trusted"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key.keyid[:16]}.pub").write_bytes(path.read_bytes())
        return key.keyid

    def trust_type(self, name: str) -> None:
        """Let models be made of a type from now on, such as `sklearn.tree._tree.Tree`. Raises BundleError."""
        if not all(part.isidentifier() for part in name.split(".")) or "." not in name:
            msg = f"type {name!r}: expected a module and a name in it, such as sklearn.tree._tree.Tree"
            raise BundleError(msg)
        folder = self._path / "trusted"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / TYPES).open("a+") as file:
            file.seek(0)
            if name not in file.read().split():
                file.write(f"{name}\n")

    def trusted_types(self) -> list[str]:
        """Return the types of which models may be made here, beside those that a loader knows to be harmless."""
        path = self._path / "trusted" / TYPES
        return path.read_text().split() if path.exists() else []

    def public_pem(self) -> bytes:
        """Return the home's own public key, for others to trust."""
        return public_pem(self.signer().public_key)


def public_pem(key: SSlibKey) -> bytes:
    """Return a public key as a PEM file holds it."""
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_signer(path: Path) -> CryptoSigner:
    """Read a private key. Raises HomeError, saying what the file holds and what was expected."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}; `snowgate key new FILE` makes a key"
        raise HomeError(msg) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        msg = f"{path}: is not an ed25519 private key in PEM form: {error}; `snowgate key new FILE` makes one"
        raise HomeError(msg) from error
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"{path}: holds {type(key).__name__}, expected an ed25519 private key"
        raise HomeError(msg)
    return CryptoSigner(key)


def make_key(path: Path) -> None:
    """Make a private key that appears whole, and once: of several processes that make it, one has made it.

    Raises OSError.
    """
    descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # Mode 0600.
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(CryptoSigner.generate_ed25519().private_bytes)
            file.flush()
            os.fsync(file.fileno())
        os.link(made, path)
    except FileExistsError:
        return
    finally:
        Path(made).unlink()


def public_key(path: Path) -> SSlibKey:
    """Read a public key from a PEM file. Raises BundleError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        msg = f"{path}: not a public key in PEM form: {error}"
        raise BundleError(msg) from error
    if not isinstance(key, Ed25519PublicKey):
        msg = f"{path}: holds {type(key).__name__}, expected an ed25519 public key"
        raise BundleError(msg)
    return SSlibKey.from_crypto(key)


def sign(
    digest: str, name: str, predicate_type: str, predicate: dict[str, Any], signer: CryptoSigner
) -> dict[str, Any]:
    """Return a signed statement about the bundle `digest`: a DSSE envelope, as JSON."""
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return seal(orjson.dumps(statement, option=orjson.OPT_SORT_KEYS), PAYLOAD_TYPE, signer)


def seal(payload: bytes, payload_type: str, signer: CryptoSigner) -> dict[str, Any]:
    """Return a DSSE envelope around anything, as JSON; its type keeps a signature from passing for another one."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    document: dict[str, Any] = envelope.to_dict()
    return document


def unseal(envelope: dict[str, Any], payload_type: str, trusted: Sequence[SSlibKey], what: str) -> tuple[str, bytes]:
    """Check that a trusted key signed this envelope; return the key's id and what was signed.

    `what` is what the errors call it.

    Raises:
        UntrustedBundle: saying what is wrong, and what to type when it is only the trust that is missing.
    """
    try:
        # The library changes what it is given.
        opened = Envelope.from_dict(copy.deepcopy(envelope))
    except (KeyError, ValueError, TypeError, AttributeError, FormatError) as error:
        msg = f"{what}: a signature is not a DSSE envelope: {type(error).__name__}: {error}"
        raise UntrustedBundle(msg) from error
    if opened.payload_type != payload_type:
        msg = f"{what}: signed payload is {opened.payload_type!r}, expected {payload_type!r}"
        raise UntrustedBundle(msg)
    try:
        accepted = opened.verify(list(trusted), 1)
    except (VerificationError, ValueError) as error:  # ValueError: no key is trusted at all.
        signers = ", ".join(keyid[:16] for keyid in opened.signatures)
        if any(key.keyid in opened.signatures for key in trusted):
            msg = f"{what}: the signature of {signers} is not of what it stands under; it was altered"
        else:
            msg = f"{what}: signed by {signers or 'nobody'}, which this home does not trust{TRUST_HINT}"
        raise UntrustedBundle(msg) from error
    return next(iter(accepted)), bytes(opened.payload)


def verify(envelope: dict[str, Any], digest: str, trusted: Sequence[SSlibKey]) -> tuple[str, dict[str, Any]]:
    """Check that a trusted key signed this statement about this bundle; return the key's id and the statement.

    Raises:
        UntrustedBundle: saying what is wrong, and what to type when it is only the trust that is missing.
    """
    keyid, payload = unseal(envelope, PAYLOAD_TYPE, trusted, f"bundle {digest}")
    try:
        statement: dict[str, Any] = orjson.loads(payload)
        subjects = [f"sha256:{one['digest']['sha256']}" for one in statement["subject"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        msg = f"bundle {digest}: what was signed is not an in-toto statement: {type(error).__name__}: {error}"
        raise UntrustedBundle(msg) from error
    if digest not in subjects:
        msg = f"bundle {digest}: its signature is about another bundle, {', '.join(subjects) or 'none'}"
        raise UntrustedBundle(msg)
    return keyid, statement
