"""Statements about a bundle: DSSE envelopes, each in a small manifest that names the bundle as its subject.

They lie beside the bundle, so whoever has something to say about it (who made it, that it was tested, that it may be
deployed) says so without changing its identity.

Source: OCI image specification 1.1, manifest.md, "subject"; DSSE 1.0.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from bundles.digest import canonical_json, sha256_bytes
from bundles.errors import CorruptBundle
from bundles.manifest import MANIFEST_TYPE, Descriptor, is_digest

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_BLOB = Descriptor(EMPTY_TYPE, sha256_bytes(EMPTY), len(EMPTY), "attestation config")

# A statement is read whole. The largest are provenances, which name each file of a bundle in some 400 bytes, a third
# more in base64: 16 MiB hold 30,000 files.
ENVELOPE_BYTES_MAX = 16 * 1024 * 1024


class _Named(msgspec.Struct, rename="camel"):
    """A blob or manifest as a statement names it."""

    digest: str
    size: int


class _Wire(msgspec.Struct, rename="camel"):
    """A statement's manifest as it arrives: nothing in it is believed yet."""

    artifact_type: str
    subject: _Named
    config: _Named
    layers: list[_Named]


# Built at import, not at first use by two threads at once: see `manifest.py`.
_decode = msgspec.json.Decoder(_Wire).decode
_decode_envelope = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement's manifest: `data` are its bytes, `subject` the bundle, `envelope` names the DSSE envelope."""

    data: bytes
    subject: str
    envelope: Descriptor

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return sha256_bytes(self.data)


def make_statement(subject: str, subject_bytes: int, envelope: Descriptor) -> Statement:
    """Return the manifest that puts an envelope beside a bundle; the same one for the same envelope."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": STATEMENT_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": EMPTY_BLOB.digest, "size": EMPTY_BLOB.size},
        "layers": [Descriptor(envelope.media_type, envelope.digest, envelope.size).to_json()],
        "subject": {"mediaType": MANIFEST_TYPE, "digest": subject, "size": subject_bytes},
    }
    return Statement(canonical_json(document), subject, envelope)


def parse_statement(data: bytes, subject: str) -> Statement:
    """Return the statement about `subject` in a manifest. Raises CorruptBundle."""
    try:
        wire = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptBundle("attestation manifest", f"is not an attestation ({error})") from error
    if wire.artifact_type != STATEMENT_TYPE or len(wire.layers) != 1 or wire.config.digest != EMPTY_BLOB.digest:
        raise CorruptBundle(
            "attestation manifest",
            f"is not an attestation: {wire.artifact_type!r} with {len(wire.layers)} layers, "
            f"expected {STATEMENT_TYPE!r} with an empty config and one layer",
        )
    if wire.subject.digest != subject:
        raise CorruptBundle("attestation manifest", f"is about another bundle, {wire.subject.digest[:80]!r}")
    named = wire.layers[0]
    if not is_digest(named.digest) or not 0 <= named.size <= ENVELOPE_BYTES_MAX:
        raise CorruptBundle(
            "attestation",
            f"is named as {named.digest[:80]!r} of {named.size} bytes, expected {ENVELOPE_BYTES_MAX} at most",
        )
    return Statement(data, subject, Descriptor(ENVELOPE_TYPE, named.digest, named.size, "attestation"))


def parse_envelope(data: bytes) -> dict[str, Any]:
    """Return an envelope, whose signatures say nothing yet. Raises CorruptBundle."""
    try:
        return _decode_envelope(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptBundle("attestation", f"is not a DSSE envelope ({error})") from error
