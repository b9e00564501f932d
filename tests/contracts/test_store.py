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
    config = store.add_blob(b'{"inputs":[],"loader":"python","model":"signs","outputs":[]}', CONFIG_TYPE)
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
    with pytest.raises(CorruptBundle, match=r"model/gone\.py"):
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


def test_files_and_bytes_with_the_same_content_are_one_blob(store: BundleStore, tmp_path: Path) -> None:
    """A descriptor has the content's digest and size, wherever the content came from."""
    (tmp_path / "file").write_bytes(b"content")
    from_bytes = store.add_blob(b"content", CODE_TYPE, "a/b.py")
    assert store.add_blob(tmp_path / "file", CODE_TYPE, "a/b.py") == from_bytes
    assert from_bytes.size == 7


def test_a_copy_is_a_file_of_its_own(store: BundleStore, tmp_path: Path) -> None:
    """A model that writes into its unpacked folder does not write into the store."""
    descriptor = store.add_blob(b"content", CODE_TYPE, "a/b.py")
    store.copy(descriptor, tmp_path / "out")
    (tmp_path / "out").write_bytes(b"scribble")
    assert store.read(descriptor) == b"content"


def test_bundles_are_listed_in_the_order_in_which_they_came(store: BundleStore) -> None:
    """Adding one again does not move it, and statements are no bundles."""
    first, second = add(store, "1"), add(store, "2")
    store.attach(first, {"payload": "x"})
    assert add(store, "1") == first
    assert store.list() == [first, second]


def test_statements_come_back_in_order_and_once(store: BundleStore) -> None:
    """The same statement attached twice is one statement."""
    digest = add(store)
    for payload in ("1", "2", "2"):
        store.attach(digest, {"payload": payload})
    assert store.attestations(digest) == [{"payload": "1"}, {"payload": "2"}]


@pytest.mark.parametrize("digest", [f"sha256:{'0' * 64}", "sha256:../../etc/passwd", "", "7"])
def test_what_is_no_bundle_here_is_unknown(store: BundleStore, digest: str) -> None:
    """An unknown digest, or something that is none, is an error of its own and says where to look."""
    for ask in (store.manifest, store.verify, lambda name: store.attach(name, {})):
        with pytest.raises(UnknownReference, match="snowgate bundle list"):
            ask(digest)


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
