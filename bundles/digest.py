"""Digests: sha256 of bytes and files, and the one form of JSON that a digest can mean (RFC 8785)."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import rfc8785

CHUNK_BYTES = 1024 * 1024


def sha256_bytes(data: bytes) -> str:
    """Return `sha256:<hex>` of some bytes.

    >>> sha256_bytes(b"")[:15]
    'sha256:e3b0c442'
    """
    return f"sha256:{sha256(data).hexdigest()}"


def sha256_file(path: Path) -> str:
    """Return `sha256:<hex>` of a file's bytes. Raises OSError."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def canonical_json(document: Any) -> bytes:
    """Return the RFC 8785 form of a JSON document. Raises ValueError for NaN, infinity and integers beyond 2^53.

    >>> canonical_json({"b": 1, "a": [1.0]})
    b'{"a":[1],"b":1}'
    """
    return rfc8785.dumps(document)
