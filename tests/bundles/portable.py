"""A small signed bundle that is made without loading a model, and what must be true of a home after anything failed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundles import provenance, signing
from bundles.bundle import BASELINE, PROVENANCE
from bundles.digest import canonical_json, sha256_file
from bundles.home import Home
from bundles.manifest import CODE_TYPE, CONFIG_TYPE, DATASET_TYPE, DOCUMENT_TYPE, WEIGHT_TYPE, Manifest
from bundles.runner import golden

CONFIG: dict[str, Any] = {
    "created": "2026-11-01T10:00:00.000000Z",
    "inputs": [],
    "loader": "python",
    "model": "signs",
    "outputs": [],
}


def store_bundle(home: Home, weights: bytes = b"weights", **config: Any) -> str:
    """Put a bundle into a home, signed by it, and return its digest; keywords replace what its configuration says."""
    store = home.make().store()
    layers = (
        store.add_blob(weights, WEIGHT_TYPE, "model/weights.safetensors"),
        store.add_blob(b"print('snow')", CODE_TYPE, "model/model.py"),
        store.add_blob(b"inputs", DATASET_TYPE, golden.INPUTS),
        store.add_blob(b"outputs", DATASET_TYPE, golden.OUTPUTS),
        store.add_blob(b"{}", DOCUMENT_TYPE, BASELINE),
        store.add_blob(b"{}", DOCUMENT_TYPE, PROVENANCE),
    )
    described = store.add_blob(canonical_json(CONFIG | config), CONFIG_TYPE)
    digest = store.add_manifest(Manifest(described, layers))
    sign(home, digest)
    return digest


def sign(home: Home, digest: str, said: str = "made") -> None:
    """Say something about a bundle with the home's key."""
    envelope = signing.sign(digest, "signs", provenance.PREDICATE_TYPE, {"said": said}, home.keys().signer())
    home.store().attach(digest, envelope)


def without(manifest: Manifest, path: str) -> Manifest:
    """Return a manifest that lacks a file."""
    return replace(manifest, layers=tuple(one for one in manifest.layers if one.path != path))


def check_nothing_half_written(home: Home) -> None:
    """See that a home names nothing, and that all it holds are whole blobs."""
    assert home.store().list() == []
    assert home.refs().list("refs/") == []
    check_blobs_are_whole(home.path / "bundles")


def check_blobs_are_whole(store: Path) -> None:
    """See that each file of a store is one, and what its name says."""
    files = [path for path in store.rglob("*") if path.is_file()]
    blobs = [path for path in files if path.parent == store / "blobs" / "sha256"]
    assert {path.name for path in files if path not in blobs} <= {"oci-layout", "index.json", "index.lock"}
    for path in blobs:
        assert sha256_file(path) == f"sha256:{path.name}"


def index_of(home: Home) -> list[dict[str, Any]]:
    """Return the manifests that a home's index names."""
    found: list[dict[str, Any]] = json.loads((home.path / "bundles" / "index.json").read_text())["manifests"]
    return found
