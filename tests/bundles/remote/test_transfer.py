"""What can happen in the middle of a pull: another one, a kill, a bundle that nobody could serve."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import BundleError, CorruptBundle
from bundles.home import Home
from bundles.manifest import CONFIG_BYTES_MAX, Manifest
from bundles.remote import transfer
from bundles.runner import golden
from bundles.statement import make_statement
from tests.bundles.portable import check_blobs_are_whole, check_nothing_half_written, store_bundle, without
from tests.bundles.remote.registries import Handler, SmallRegistry, fetch, place, send
from tests.conftest import wait_until

PULL = """
import sys
from pathlib import Path
from bundles.home import Home
from tests.bundles.remote.registries import fetch, place
print(fetch(Home(Path(sys.argv[2])), place(sys.argv[1])))
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": ":".join(sys.path)}


def pulling(registry: SmallRegistry, home: Home) -> subprocess.Popen[str]:
    """Start a pull in a process of its own."""
    command = [sys.executable, "-c", PULL, registry.host, str(home.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def publish(registry: SmallRegistry, manifest: bytes) -> None:
    """Put a manifest there that no honest program would."""
    place(registry.host).put_tag("1", "", manifest)


def test_pulls_at_once_give_one_version(
    small_registry: SmallRegistry, sender: tuple[Home, str], receiver: Home
) -> None:
    """Four processes pull the same bundle into one home: it is whole, there once, and has one version."""
    send(*sender, place(small_registry.host))
    processes = [pulling(small_registry, receiver) for _process in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["1\n"] * 4
    assert receiver.store().list() == [sender[1]]
    assert [ref.name for ref in receiver.refs().list("refs/tags/")] == ["refs/tags/signs/1"]
    receiver.store().verify(sender[1])
    check_blobs_are_whole(receiver.path / "bundles")


def test_a_pull_that_was_killed_is_made_good_by_the_next(
    small_registry: SmallRegistry, sender: tuple[Home, str], receiver: Home
) -> None:
    """A kill -9 while a file arrives: nothing is named, and the next pull fetches only what did not arrive."""
    home, digest = sender
    send(home, digest, place(small_registry.host))
    model = home.store().manifest(digest).files()["model/model.py"]

    def stall(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(model.size))
        handler.end_headers()
        handler.wfile.write(b"print")
        handler.wfile.flush()
        handler.close_connection = True
        return not handler.connection.recv(1)  # Until the other side is gone.

    small_registry.lie(f"GET .*/blobs/{model.digest}", stall)
    small_registry.seen.clear()
    process = pulling(small_registry, receiver)
    blobs = receiver.path / "bundles" / "blobs" / "sha256"
    wait_until(lambda: list(blobs.glob(".new-*")) and small_registry.asked(model.digest), what="the file's first bytes")
    process.kill()
    process.communicate(timeout=20)
    assert receiver.store().list() == []
    assert receiver.refs().list("refs/") == []
    small_registry.lies.clear()
    small_registry.seen.clear()
    assert fetch(receiver, place(small_registry.host)) == "1"
    assert len(small_registry.asked("GET .*/blobs/")) == 4, "config, weights and the statement had arrived"
    receiver.store().verify(digest)
    (left,) = blobs.glob(".new-*")
    os.utime(left, (0, 0))
    assert [path for path, _size in receiver.store().sweep(remove=True)] == [left]


def test_a_damaged_file_here_is_made_good(
    small_registry: SmallRegistry, sender: tuple[Home, str], receiver: Home
) -> None:
    """A file that has gone bad in this home is fetched again by pulling its bundle again."""
    home, digest = sender
    send(home, digest, place(small_registry.host))
    fetch(receiver, place(small_registry.host))
    weights = home.store().manifest(digest).layers[0].digest.removeprefix("sha256:")
    (receiver.path / "bundles" / "blobs" / "sha256" / weights).write_bytes(b"WEIGHTS")
    with pytest.raises(CorruptBundle):
        receiver.store().verify(digest)
    assert fetch(receiver, place(small_registry.host)) == "1"
    receiver.store().verify(digest)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model": "../../etc"}, "model '../../etc': expected letters"),
        ({"model": 7}, "is not a bundle's configuration"),
        ({"created": "\x1b[2J"}, r"was created at .*, expected a time"),
        ({"created": None}, "was created at 'None', expected a time"),
        ({"inputs": "all"}, "is not a bundle's configuration"),
    ],
)
def test_a_configuration_that_nobody_could_list_is_refused(
    small_registry: SmallRegistry, tmp_path: Path, receiver: Home, config: dict[str, Any], said: str
) -> None:
    """What becomes a ref's name and a line of `bundle list` is checked before the large files come."""
    home = Home(tmp_path / "evil")
    digest = store_bundle(home, **config)
    send(home, digest, place(small_registry.host))
    small_registry.seen.clear()
    with pytest.raises(BundleError, match=said):
        fetch(receiver, place(small_registry.host))
    assert len(small_registry.asked("GET .*/blobs/")) == 2, "the statement and the configuration"
    check_nothing_half_written(receiver)


def spoilt(manifest: Manifest, what: str) -> bytes:
    """Return a manifest that is wrong in some way."""
    first, *rest = manifest.layers
    changed = {
        "unknown media type": replace(manifest, layers=(replace(first, media_type="application/zip"), *rest)),
        "path outside": replace(manifest, layers=(replace(first, path="../../evil"), *rest)),
        "other config": replace(manifest, config=replace(manifest.config, media_type="application/x")),
        "huge config": replace(manifest, config=replace(manifest.config, size=CONFIG_BYTES_MAX + 1)),
        "no golden examples": without(manifest, golden.OUTPUTS),
        "two sizes": replace(manifest, layers=(first, replace(first, size=8, path="model/x"), *rest)),
        "larger than the disk": replace(manifest, layers=(replace(first, size=2**53 - 1), *rest)),
    }
    return changed[what].to_bytes() if what in changed else manifest.to_bytes().replace(b'{"a', b'{ "a', 1)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unknown media type", "'model/weights.safetensors' has the media type 'application/zip', expected one of"),
        ("path outside", "'../../evil' is not a plain relative path"),
        ("other config", "has a config of the type 'application/x'"),
        ("huge config", "has a config of 1048577 bytes"),
        ("no golden examples", "golden/outputs.safetensors is not in the manifest"),
        ("two sizes", "two sizes, 7 and 8 bytes"),
        ("larger than the disk", "bytes are to come and .* are free; make room"),
        ("not canonical", "is not in canonical form"),
    ],
)
def test_a_manifest_that_is_no_bundle_s_is_refused_before_a_file_comes(
    small_registry: SmallRegistry, sender: tuple[Home, str], receiver: Home, what: str, said: str
) -> None:
    """The manifest alone is enough to refuse what could do harm, could not be served, or has no room."""
    home, digest = sender
    publish(small_registry, spoilt(home.store().manifest(digest), what))
    with pytest.raises(BundleError, match=said):
        fetch(receiver, place(small_registry.host))
    assert small_registry.asked("GET .*/blobs/") == []
    check_nothing_half_written(receiver)


@pytest.mark.parametrize("wrong", ["about another", "not DSSE", "too many", "huge"])
def test_statements_are_checked_and_bounded(
    small_registry: SmallRegistry,
    sender: tuple[Home, str],
    receiver: Home,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    """A statement about another bundle, one that is none, a thousand and one, or one of gigabytes: refused."""
    home, digest = sender
    send(home, digest, place(small_registry.host))
    content = b"[]" if wrong == "not DSSE" else b'{"payload":"x"}'
    envelope = home.store().add_blob(content, "application/vnd.dsse.envelope.v1+json")
    place(small_registry.host).put(envelope, lambda: [content])
    if wrong == "huge":
        envelope = replace(envelope, size=2**40)
    evil = make_statement(f"sha256:{'0' * 64}" if wrong == "about another" else digest, 1, envelope)
    place(small_registry.host).put_manifest(evil.digest, evil.data)
    small_registry.about[digest].append(evil.digest)
    if wrong == "too many":
        monkeypatch.setattr(transfer, "STATEMENTS_MAX", 1)
    said = {"about another": "is about another bundle", "not DSSE": "is not a DSSE envelope"}
    with pytest.raises(CorruptBundle, match=said.get(wrong, "expected (at most 1|16777216 at most)")):
        fetch(receiver, place(small_registry.host))
    check_nothing_half_written(receiver)


def test_what_is_here_is_not_asked_for(small_registry: SmallRegistry, sender: tuple[Home, str]) -> None:
    """A home that has the files of a bundle already asks for its manifest and statements only."""
    home, digest = sender
    send(home, digest, place(small_registry.host))
    small_registry.seen.clear()
    assert fetch(home, place(small_registry.host)) == "1"
    assert small_registry.asked("GET .*/blobs/") == []
