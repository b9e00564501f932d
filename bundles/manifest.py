"""The manifest: one small JSON document that names every file of a bundle by its digest.

A bundle is an OCI artifact in the form of the CNCF ModelPack specification, so that any OCI registry can hold it.
The manifest points at a configuration blob (what the runner has to know) and at one raw layer per file; the path of a
file inside the bundle is the layer's annotation `org.cncf.model.filepath`. The bytes are RFC 8785 canonical JSON, and
**their sha256 is the identity of the bundle**: it covers the digest, the size and the path of every file.

Paths come from outside as soon as a bundle does, and end as file names on the serving machine. A path that is
absolute, climbs (`..`), hides a second meaning (`a//b`, `./a`, backslashes, control characters) or collides with
another one is refused here, at the only door.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from .digest import canonical_json, sha256_bytes
from .errors import CorruptBundle

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"
CODE_TYPE = "application/vnd.cncf.model.code.v1.raw"
DATASET_TYPE = "application/vnd.cncf.model.dataset.v1.raw"

LAYER_TYPES = frozenset({WEIGHT_TYPE, WEIGHT_CONFIG_TYPE, DOCUMENT_TYPE, CODE_TYPE, DATASET_TYPE})

PATH_ANNOTATION = "org.cncf.model.filepath"

# A manifest is read whole into memory before anything is known about it. A layer takes about 250 bytes, so 4 MiB hold
# some 16,000 files.
MANIFEST_BYTES_MAX = 4 * 1024 * 1024
# A configuration holds a model's tensors and parameters.
CONFIG_BYTES_MAX = 1024 * 1024

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".onnx", ".pt", ".pth", ".bin", ".gguf", ".npz", ".npy", ".pkl", ".joblib"}
)
_CONFIG_SUFFIXES = frozenset({".json", ".toml", ".yaml", ".yml"})
_DOCUMENT_SUFFIXES = frozenset({".md", ".txt", ".rst", ".pdf", ".html"})


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob as a manifest names it. `size` is in bytes; `path` is its place in the bundle, None for the config."""

    media_type: str
    digest: str
    size: int
    path: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the OCI content descriptor."""
        descriptor: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.path is not None:
            descriptor["annotations"] = {PATH_ANNOTATION: self.path}
        return descriptor


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one bundle. `annotations` are free strings that belong to the identity too."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, whose sha256 is the bundle's identity."""
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return canonical_json(document)

    def digest(self) -> str:
        """Return the identity of the bundle, `sha256:<hex>`."""
        return sha256_bytes(self.to_bytes())

    def files(self) -> dict[str, Descriptor]:
        """Return the descriptor of every file by its path in the bundle."""
        return {layer.path: layer for layer in self.layers if layer.path is not None}

    def size(self) -> int:
        """Return how many bytes the bundle's configuration and files have together."""
        return self.config.size + sum(layer.size for layer in self.layers)


class _Wire(msgspec.Struct, rename="camel"):
    """A descriptor as it arrives: nothing in it is believed yet."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class _ManifestWire(msgspec.Struct, rename="camel"):
    """A manifest as it arrives."""

    schema_version: int
    artifact_type: str
    config: _Wire
    layers: list[_Wire]
    annotations: dict[str, str] = {}


# Built at import, not at first use: two threads that prepare bundles at once would both work out the types, and msgspec
# crashes the process when they do.
_decode = msgspec.json.Decoder(_ManifestWire).decode


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in `data`; raise CorruptBundle when it is not one or names a path that could do harm.

    The bytes must be the canonical ones: what is in them beyond what we read would be in the identity, and seen by
    nobody.
    """
    try:
        wire = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptBundle("manifest", f"is not a bundle's manifest ({error})") from error
    if wire.artifact_type != ARTIFACT_TYPE:
        raise CorruptBundle("manifest", f"has the artifact type {wire.artifact_type!r}, expected {ARTIFACT_TYPE!r}")
    layers = tuple(_parse_layer(layer) for layer in wire.layers)
    _check_collisions([layer.path for layer in layers if layer.path is not None])
    config = _parse_config(wire.config)
    _check_sizes((config, *layers))
    manifest = Manifest(config, layers, tuple(sorted(wire.annotations.items())))
    try:
        canonical = manifest.to_bytes()
    except ValueError as error:
        raise CorruptBundle("manifest", f"has no canonical form ({error})") from error
    if canonical != data:
        raise CorruptBundle("manifest", "is not in canonical form, or has fields that a bundle's manifest has not")
    return manifest


def check_path(path: str) -> str:
    """Return `path` when it is a plain relative path inside a bundle; raise CorruptBundle when it is anything else."""
    parts = path.split("/")
    plain = (
        0 < len(path) <= 1024
        and "\\" not in path
        and path.isprintable()
        and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    )
    if not plain:
        raise CorruptBundle(
            repr(path), "is not a plain relative path; a bundle may only name files below its own folder"
        )
    return path


def media_type_of(path: str) -> str:
    """Return the ModelPack media type for a model's file, by its ending; what is not known is code."""
    suffix = "." + path.rsplit("/", 1)[-1].rpartition(".")[2].lower()
    if suffix in _WEIGHT_SUFFIXES:
        return WEIGHT_TYPE
    if suffix in _CONFIG_SUFFIXES:
        return WEIGHT_CONFIG_TYPE
    if suffix in _DOCUMENT_SUFFIXES:
        return DOCUMENT_TYPE
    return CODE_TYPE


def is_digest(text: str) -> bool:
    """Say whether `text` is a whole digest, `sha256:` and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _parse_config(wire: _Wire) -> Descriptor:
    if wire.media_type != CONFIG_TYPE:
        raise CorruptBundle("manifest", f"has a config of the type {wire.media_type[:100]!r}, expected {CONFIG_TYPE!r}")
    if wire.size > CONFIG_BYTES_MAX:
        raise CorruptBundle("manifest", f"has a config of {wire.size} bytes, expected at most {CONFIG_BYTES_MAX}")
    return Descriptor(wire.media_type, _check_digest(wire.digest), _check_size(wire))


def _parse_layer(wire: _Wire) -> Descriptor:
    path = wire.annotations.get(PATH_ANNOTATION)
    if path is None:
        raise CorruptBundle("manifest", f"has a layer {wire.digest} without the annotation {PATH_ANNOTATION}")
    if wire.media_type not in LAYER_TYPES:
        known = ", ".join(sorted(LAYER_TYPES))
        raise CorruptBundle(repr(path), f"has the media type {wire.media_type[:100]!r}, expected one of {known}")
    return Descriptor(wire.media_type, _check_digest(wire.digest), _check_size(wire), check_path(path))


def _check_digest(digest: str) -> str:
    # The hexadecimal digits become a file name in the store, so this is a path check as well.
    if not is_digest(digest):
        raise CorruptBundle("manifest", f"names the blob {digest!r}, expected sha256: and 64 hexadecimal digits")
    return digest


def _check_size(wire: _Wire) -> int:
    if wire.size < 0:
        raise CorruptBundle("manifest", f"gives {wire.digest} the size {wire.size}, expected 0 or more bytes")
    return wire.size


def _check_sizes(descriptors: tuple[Descriptor, ...]) -> None:
    """Refuse a blob that is said to have two sizes: at most one of them is true."""
    sizes: dict[str, int] = {}
    for one in descriptors:
        if sizes.setdefault(one.digest, one.size) != one.size:
            said = f"{sizes[one.digest]} and {one.size}"
            raise CorruptBundle("manifest", f"gives {one.digest} two sizes, {said} bytes")


def _check_collisions(paths: list[str]) -> None:
    """Refuse two files at one place, also where one would have to be a folder for the other."""
    seen: set[str] = set()
    for path in sorted(paths):
        if path in seen:
            raise CorruptBundle(path, "is named twice in the manifest")
        seen.add(path)
    for path in seen:
        for length in range(1, path.count("/") + 1):
            folder = "/".join(path.split("/")[:length])
            if folder in seen:
                raise CorruptBundle(path, f"needs the folder {folder!r}, which the manifest also names as a file")
