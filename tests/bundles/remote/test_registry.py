"""A bundle to a registry of another project and back, and to one that has the referrers API."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundles.errors import CorruptBundle, RefConflict, UntrustedBundle
from bundles.home import Home
from bundles.loading import check_trust
from tests.bundles.portable import sign, store_bundle
from tests.bundles.remote.registries import SmallRegistry, fetch, place, send


@pytest.fixture(params=["docker-registry", "small"])
def host(request: pytest.FixtureRequest) -> str:
    """A registry without the referrers API, and one with it."""
    if request.param == "small":
        small: SmallRegistry = request.getfixturevalue("small_registry")
        return small.host
    found: str = request.getfixturevalue("docker_registry")
    return found


def test_there_and_back(host: str, sender: tuple[Home, str], receiver: Home) -> None:
    """A bundle comes back with its digest, its files and its signature, which counts once the key is trusted."""
    home, digest = sender
    assert send(home, digest, place(host)).files_moved == 6, "files of the same content are one"
    assert fetch(receiver, place(host)) == "1"
    receiver.store().verify(digest)
    assert receiver.store().attestations(digest) == home.store().attestations(digest)
    with pytest.raises(UntrustedBundle, match=r"snowgate bundle trust KEY\.pub"):
        check_trust(receiver.store(), digest, receiver.policy())
    (receiver.path / "sender.pub").write_bytes(home.keys().public_pem())
    receiver.keys().trust(receiver.path / "sender.pub")
    check_trust(receiver.store(), digest, receiver.policy())


def test_only_what_is_missing_moves(host: str, sender: tuple[Home, str], receiver: Home) -> None:
    """A second version shares its files with the first; pushed or pulled again, nothing moves."""
    home, first = sender
    second = store_bundle(home, b"other weights")
    send(home, first, place(host), "a")
    assert send(home, second, place(host), "b").files_moved == 1
    assert send(home, second, place(host), "b").files_moved == 0
    assert fetch(receiver, place(host), "a") == "1"
    assert fetch(receiver, place(host), "b") == "2"
    assert fetch(receiver, place(host), "b") == "2"
    assert [one["created"] for one in [receiver.refs().list("refs/tags/signs/")[1].details]]


def test_what_is_said_later_travels_later(host: str, sender: tuple[Home, str], receiver: Home) -> None:
    """A statement that is made after a push goes there by the next, beside those of others who push at once."""
    home, digest = sender[0], store_bundle(sender[0], b"talked of")
    send(home, digest, place(host), "later")
    assert fetch(receiver, place(host), "later") == "1"
    others = [Home(receiver.path.parent / f"other{number}") for number in range(4)]
    for number, other in enumerate(others):
        assert store_bundle(other, b"talked of") == digest
        sign(other, digest, f"checked by {number}")
    with ThreadPoolExecutor(len(others)) as pool:
        # Debian's registry answers 500 to who reads a tag while another one writes it.
        list(pool.map(lambda other: send(other, digest, place(host, waits=(0.05,) * 20), "later"), others))
    for other in others:  # A registry has no compare-and-swap: what was overwritten between two looks is sent again.
        send(other, digest, place(host), "later")
    fetch(receiver, place(host), "later")
    assert len(receiver.store().attestations(digest)) == 9


def test_a_tag_is_not_moved_unless_told(host: str, sender: tuple[Home, str]) -> None:
    """A name that others pull by keeps its meaning until somebody says --replace."""
    home, first = sender
    second = store_bundle(home, b"other weights")
    send(home, first, place(host), "fixed")
    with pytest.raises(RefConflict, match=f"'fixed' there names another bundle, {first}.*--replace"):
        send(home, second, place(host), "fixed")
    assert place(host).tagged("fixed") == first
    send(home, second, place(host), "fixed", replace=True)
    assert place(host).tagged("fixed") == second


def test_a_damaged_bundle_is_not_sent(host: str, sender: tuple[Home, str]) -> None:
    """Bytes that are not what their name says never get a name elsewhere."""
    home, _digest = sender
    digest = store_bundle(home, b"to be damaged")
    blob = home.store().manifest(digest).layers[0].digest.removeprefix("sha256:")
    Path(home.path / "bundles" / "blobs" / "sha256" / blob).write_bytes(b"TO BE DAMAGED")
    with pytest.raises(CorruptBundle, match="altered"):
        send(home, digest, place(host), "damaged")
    assert place(host).tagged("damaged") is None
