"""What every bundle store must do; a second implementation joins by a line in IMPLEMENTATIONS."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.bundle import open_bundle
from bundles.errors import CorruptBundle, UnknownReference
from bundles.manifest import CODE_TYPE, CONFIG_TYPE, Descriptor, Manifest
from bundles.store import BundleStore, OciStore

IMPLEMENTATIONS: dict[str, Callable[[Path], BundleStore]] = {"oci": lambda folder: OciStore(folder / "bundles")}


@pytest.fixture(params=IMPLEMENTATIONS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BundleStore:
    """A store, empty."""
    return IMPLEMENTATIONS[request.param](tmp_path)


def add(store: BundleStore, text: str = "print('snow')") -> str:
    """Add a bundle of one file."""
    config = store.add_blob(b'{"model":"signs"}', CONFIG_TYPE)
    return store.add_manifest(Manifest(config, (store.add_blob(text.encode(), CODE_TYPE, "model/model.py"),)))


def test_what_is_added_is_read(store: BundleStore) -> None:
    """A bundle comes back by its digest, and is listed."""
    digest = add(store)
    assert store.list() == [digest]
    assert open_bundle(store, digest).file("model/model.py") == b"print('snow')"
    store.verify(digest)


def test_the_same_content_is_one_bundle(store: BundleStore) -> None:
    """Content addressing: adding again changes nothing."""
    assert add(store) == add(store)
    assert len(store.list()) == 1


def test_what_is_not_there_is_said(store: BundleStore) -> None:
    """An unknown digest, and a manifest whose blob is missing, are errors that name it."""
    with pytest.raises(UnknownReference, match="sha256:00"):
        store.manifest("sha256:" + "0" * 64)
    missing = Descriptor(CODE_TYPE, "sha256:" + "1" * 64, 3, "model/gone.py")
    with pytest.raises(CorruptBundle, match="model/gone.py"):
        store.add_manifest(Manifest(store.add_blob(b"{}", CONFIG_TYPE), (missing,)))


def test_statements_stay_with_their_bundle(store: BundleStore) -> None:
    """A statement is attached beside a bundle, and changes neither its digest nor another bundle."""
    one, two = add(store), add(store, "print('sun')")
    store.attach(one, {"payload": "x"})
    assert store.attestations(one) == [{"payload": "x"}]
    assert store.attestations(two) == []
    assert sorted(store.list()) == sorted([one, two])


def test_a_copy_is_checked(store: BundleStore, tmp_path: Path) -> None:
    """What is unpacked has the bytes that its digest says."""
    descriptor = store.add_blob(b"weights", CODE_TYPE, "model/w")
    store.copy(descriptor, tmp_path / "out" / "w")
    assert (tmp_path / "out" / "w").read_bytes() == b"weights"


def test_writers_at_once(store: BundleStore) -> None:
    """Four threads add 20 bundles each, all of them are there, and whole."""

    def work(number: int) -> None:
        for count in range(20):
            add(store, f"print({number}, {count % 10})")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list()) == 40
    for digest in store.list():
        store.verify(digest)
