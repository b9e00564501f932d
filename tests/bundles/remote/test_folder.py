"""A bundle to a folder that fsspec reaches, and back: on a disk, and in a store of objects."""

import secrets
import threading
from pathlib import Path

import pytest

from bundles.errors import BundleError, CorruptBundle, RefConflict, RemoteError, UnknownReference
from bundles.home import Home
from bundles.remote.address import parse_address
from bundles.remote.folder import Folder
from bundles.remote.transfer import accept, find, push, receive
from tests.bundles.portable import check_nothing_half_written, sign, store_bundle


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A disk, whose files are renamed into place, and objects, which appear when they are closed."""
    return f"file://{tmp_path}/shared/models" if request.param == "file" else f"memory://{secrets.token_hex(8)}/models"


def send(home: Home, digest: str, url: str, tag: str = "1", *, replace: bool = False) -> int:
    """Push, and return how many files moved."""
    there = Folder(parse_address(url))
    return push(home.store(), digest, there, tag, replace=replace, say=lambda _text: None).files_moved


def fetch(home: Home, url: str, tag: str = "1") -> str:
    """Pull, and return the version."""
    there = Folder(parse_address(url))
    arrived = receive(home, there, find(there, url, tag), say=lambda _text: None)
    return accept(home, arrived, origin=url, actor="a tester")


def test_there_and_back(url: str, sender: tuple[Home, str], receiver: Home) -> None:
    """A bundle comes back whole and signed; only what is missing moves; what is said later travels later."""
    home, digest = sender
    assert send(home, digest, url) == 6
    assert fetch(receiver, url) == "1"
    receiver.store().verify(digest)
    assert send(home, store_bundle(home, b"others"), url, "2") == 1
    assert fetch(receiver, url, "2") == "2"
    sign(home, digest, "tested")
    assert send(home, digest, url) == 0
    assert fetch(receiver, url) == "1"
    assert len(receiver.store().attestations(digest)) == 2


def test_a_tag_is_not_moved_unless_told(url: str, sender: tuple[Home, str]) -> None:
    """As in a registry."""
    home, first = sender
    second = store_bundle(home, b"others")
    send(home, first, url)
    with pytest.raises(RefConflict, match=f"names another bundle, {first}"):
        send(home, second, url)
    send(home, second, url, replace=True)
    assert Folder(parse_address(url)).tagged("1") == second


def test_what_is_not_there_says_what_is(url: str, sender: tuple[Home, str], receiver: Home) -> None:
    """An empty folder, and an unknown tag, are told apart."""
    with pytest.raises(UnknownReference, match="no such tag; there are no bundles"):
        fetch(receiver, url)
    send(*sender, url, "production")
    with pytest.raises(UnknownReference, match="no such tag; there are: production"):
        fetch(receiver, url)


def test_many_push_to_one_folder_at_once(tmp_path: Path) -> None:
    """Nobody overwrites what another one has said: all names and statements of all are there."""
    url = f"file://{tmp_path}/shared"
    homes = [Home(tmp_path / f"home{number}") for number in range(6)]
    digests = [store_bundle(home) for home in homes]
    threads = [
        threading.Thread(target=send, args=(home, digest, url, f"v{number}"))
        for number, (home, digest) in enumerate(zip(homes, digests, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    receiver = Home(tmp_path / "receiver").make()
    assert [fetch(receiver, url, f"v{number}") for number in range(6)] == ["1"] * 6
    assert len(receiver.store().attestations(digests[0])) == 6
    assert list((tmp_path / "shared").rglob("*.new-*")) == []


def test_a_folder_may_lie(tmp_path: Path, sender: tuple[Home, str], receiver: Home) -> None:
    """Altered, cut, lengthened and missing files, and a tag of nonsense: each refused, nothing half-written."""
    url = f"file://{tmp_path}/shared"
    send(*sender, url)
    weights = sender[0].store().manifest(sender[1]).layers[0]
    file = tmp_path / "shared" / "blobs" / "sha256" / weights.digest.removeprefix("sha256:")
    for content, said in ((b"WEIGHTS", "arrived altered"), (b"we", "ended after 2 of 7"), (b"weights!", "more than 7")):
        file.write_bytes(content)
        with pytest.raises(CorruptBundle, match=said):
            fetch(receiver, url)
    file.unlink()
    with pytest.raises(UnknownReference, match=r"blobs/sha256/.* is not there"):
        fetch(receiver, url)
    (tmp_path / "shared" / "tags" / "1").write_text("../../../etc/passwd")
    with pytest.raises(RemoteError, match=r"the tag '1' holds '\.\./.*passwd', expected a digest"):
        fetch(receiver, url)
    (tmp_path / "shared" / "tags" / "1").write_bytes(b"x" * 100_000)
    with pytest.raises(RemoteError, match="more than 200 bytes"):
        fetch(receiver, url)
    check_nothing_half_written(receiver)


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path, sender: tuple[Home, str]) -> None:
    """Below a file there is no folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match=f"file://{tmp_path}/file: .*Not a directory|exists"):
        send(*sender, f"file://{tmp_path}/file")


def test_a_scheme_that_nobody_knows_is_said(receiver: Home) -> None:
    """The error names the scheme, or what to install for it."""
    with pytest.raises(BundleError, match="nosuch"):
        Folder(parse_address("nosuch://bucket/models:1"))
