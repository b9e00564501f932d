"""The index of an OCI image layout: a list of manifests, in a store, in an archive, and behind a registry's tag.

Source: OCI image specification 1.1, image-layout.md and image-index.md.
"""

import msgspec

from bundles.errors import CorruptBundle
from bundles.manifest import is_digest

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
# What comes from elsewhere is read whole. A manifest takes about 300 bytes, so 4 MiB hold some 14,000.
INDEX_BYTES_MAX = 4 * 1024 * 1024


class Entry(msgspec.Struct, rename="camel", omit_defaults=True):
    """One manifest as an index names it."""

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, rename="camel"):
    manifests: list[Entry]
    schema_version: int = 2
    media_type: str = INDEX_TYPE


# Built at import, not at first use by two threads at once: see `manifest.py`.
_decode = msgspec.json.Decoder(_Index).decode


def parse_index(data: bytes, where: str) -> list[Entry]:
    """Return the manifests that an index names. Raises CorruptBundle, saying `where` it lies.

    >>> parse_index(b'{"manifests": []}', "here")
    []
    """
    try:
        entries = _decode(data).manifests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptBundle(INDEX_FILE, f"is not the index of an OCI layout ({where}: {error})") from error
    for entry in entries:
        # It becomes a file's name.
        if not is_digest(entry.digest):
            raise CorruptBundle(INDEX_FILE, f"names {entry.digest[:100]!r}, expected a digest ({where})")
    return entries


def index_bytes(entries: list[Entry]) -> bytes:
    """Return the index that names these manifests."""
    return msgspec.json.encode(_Index(entries))
