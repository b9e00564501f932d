import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundles.errors import CorruptBundle, HomeError
from bundles.manifest import CODE_TYPE, CONFIG_TYPE, Manifest
from bundles.store import OciStore


def add(store: OciStore) -> str:
    """Put a bundle with one file into a store."""
    layer = store.add_blob(b"print()", CODE_TYPE, "model/model.py")
    return store.add_manifest(Manifest(store.add_blob(b"{}", CONFIG_TYPE), (layer,)))


def blob(store: Path, digest: str) -> Path:
    """Return a blob's file."""
    return store / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_it_is_an_oci_image_layout(tmp_path: Path) -> None:
    """Other tools find what the specification promises: oci-layout, index.json, blobs by digest."""
    digest = add(OciStore(tmp_path))
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"][0]["digest"] == digest
    assert blob(tmp_path, digest).stat().st_size == index["manifests"][0]["size"]


def test_a_damaged_blob_is_made_good_by_adding_it_again(tmp_path: Path) -> None:
    """Packing again repairs: the store does not take a file's name for its content."""
    store = OciStore(tmp_path)
    digest = add(store)
    file = blob(tmp_path, store.manifest(digest).layers[0].digest)
    file.write_bytes(b"prunt()")
    with pytest.raises(CorruptBundle):
        store.verify(digest)
    add(store)
    store.verify(digest)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[]", b'{"manifests": [{"digest": 7}]}'])
def test_a_spoilt_index_is_named(tmp_path: Path, content: bytes) -> None:
    """An index that is not one is an error that says where it lies, and no traceback."""
    store = OciStore(tmp_path)
    add(store)
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(CorruptBundle, match=r"index\.json"):
        store.list()


def test_an_index_cannot_name_files_outside(tmp_path: Path) -> None:
    """A digest in the index becomes a file name, so it has to be a digest."""
    entry = {"mediaType": "a", "digest": "sha256:../../../secret", "size": 1}
    store = OciStore(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with pytest.raises(CorruptBundle, match="expected a digest"):
        store.attestations("sha256:0")


def test_an_attestation_about_another_bundle_is_refused(tmp_path: Path) -> None:
    """The index can't make a signature count for a bundle that it is not about."""
    store = OciStore(tmp_path)
    digest = add(store)
    other = store.add_manifest(Manifest(store.add_blob(b"[]", CONFIG_TYPE), ()))
    store.attach(other, {"payload": "1"})
    index = tmp_path / "index.json"
    index.write_text(
        index.read_text().replace(f'"dev.snowgate.subject":"{other}"', f'"dev.snowgate.subject":"{digest}"')
    )
    with pytest.raises(CorruptBundle, match="attestation manifest is about another bundle"):
        store.attestations(digest)


def test_another_layout_version_is_refused(tmp_path: Path) -> None:
    """A store of a version that we do not know is not read as if we did."""
    OciStore(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "9.0.0"}')
    with pytest.raises(CorruptBundle, match=r"oci-layout.*9\.0\.0"):
        OciStore(tmp_path)


def test_a_place_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    """Below a regular file no folder can be made; the error says which, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"file/bundles: can't be made.*--home"):
        OciStore(tmp_path / "file" / "bundles")


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    """A source that can't be copied leaves no blob and no temporary file behind."""
    store = OciStore(tmp_path)
    (tmp_path / "blobs" / "sha256").rename(tmp_path / "away")
    with pytest.raises(HomeError, match="can't be written"):
        store.add_blob(b"content", CODE_TYPE)
    (tmp_path / "away").rename(tmp_path / "blobs" / "sha256")
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


def test_opening_bundles_does_not_import_a_framework() -> None:
    """The command line imports these at every start: no torch, no detectors, no HTTP."""
    program = (
        "import sys, bundles.store, bundles.refs, bundles.bundle, bundles.home;"
        "print([name for name in ('torch', 'river', 'fastapi', 'scipy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
