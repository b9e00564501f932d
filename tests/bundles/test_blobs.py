"""Blobs under many hands: writers, readers and who removes garbage, in real processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundles.blobs import READ_BYTES_MAX, YOUNG_SECONDS
from bundles.errors import CorruptBundle
from bundles.garbage import collect
from bundles.home import Home
from bundles.manifest import CODE_TYPE, DOCUMENT_TYPE, Descriptor
from bundles.store import OciStore
from tests.bundles.portable import check_blobs_are_whole, sign, store_bundle

WRITERS, READERS = 3, 2
ROUNDS = int(os.environ.get("ROUNDS", "20"))

WRITER = """
import sys
from pathlib import Path
from bundles.home import Home
from tests.bundles.portable import store_bundle
from tests.bundles.test_blobs import weights
home, number, rounds = Home(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
for one in range(rounds):
    for whose in (0, number):
        digest = store_bundle(home, weights(whose, one))
        home.store().verify(digest)
print(rounds * 2)
"""
READER = """
import sys
from pathlib import Path
from bundles.home import Home
home, stop = Home(Path(sys.argv[1])), Path(sys.argv[1], "stop")
seen = 0
while not stop.exists():
    for digest in home.store().list()[-6:]:
        home.store().verify(digest)
        seen += 1
print(seen)
"""
SWEEPER = """
import sys, time
from itertools import islice
from pathlib import Path
from bundles.home import Home
home, stop = Home(Path(sys.argv[1])), Path(sys.argv[1], "stop")
gone = 0
while not stop.exists():
    gone += sum(1 for _one in islice(home.store().sweep(remove=True), 1))
    time.sleep(0.02)  # Between two looks at all that is named, others get the lock.
print(gone)
"""


def weights(whose: int, one: int) -> bytes:
    """Return the weights of a bundle: of all writers' (0), or of one writer's."""
    return b"weights %d of %d" % (one, whose) * 3000


def begin(program: str, home: Home, *arguments: int) -> subprocess.Popen[str]:
    """Start a process of Python."""
    command = [sys.executable, "-c", program, str(home.path), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)}
    )


def end(process: subprocess.Popen[str]) -> int:
    """Wait for it, see that nothing went wrong in it, and return the number that it printed."""
    said, _errors = process.communicate(timeout=100 + ROUNDS)
    assert process.returncode == 0
    return int(said)


def old(path: Path) -> Path:
    """Make a file older than a day."""
    os.utime(path, (time.time() - YOUNG_SECONDS - 60,) * 2)
    return path


def test_writers_readers_and_garbage_at_once(tmp_path: Path) -> None:
    """Real processes write the same and different bundles, read all, and remove garbage: not one is ever partial.

    All weights lie there already, old and named by nothing, as a crash a day ago has left them: so each writer that
    adds its own races for the file with the one who removes garbage, a file at a time.
    """
    home = Home(tmp_path / "home").make()
    home.keys().signer()
    blobs = home.path / "bundles" / "blobs" / "sha256"
    for whose in range(WRITERS + 1):
        for one in range(ROUNDS):
            left = home.store().add_blob(weights(whose, one), CODE_TYPE)
            old(blobs / left.digest.removeprefix("sha256:"))
    beside = [begin(READER, home) for _reader in range(READERS)] + [begin(SWEEPER, home)]
    writers = [begin(WRITER, home, number + 1, ROUNDS) for number in range(WRITERS)]
    try:
        written = sum(map(end, writers))
        (home.path / "stop").write_text("")
        *read, removed = map(end, beside)
    finally:
        for process in (*beside, *writers):
            process.kill()
            process.wait(20)
    assert written == WRITERS * ROUNDS * 2
    assert sum(read) > 0
    assert removed > 0
    bundles = home.store().list()
    assert len(bundles) == ROUNDS * (WRITERS + 1)
    for digest in bundles:
        home.store().verify(digest)
        assert len(home.store().attestations(digest)) == 1
    check_blobs_are_whole(home.path / "bundles")


def test_blobs_that_no_manifest_names_go_after_a_day(tmp_path: Path) -> None:
    """What a crashed pack left, and a temporary file, are garbage when they are old; bundles and statements stay."""
    home = Home(tmp_path / "home")
    digest = store_bundle(home)
    sign(home, digest, "tested")
    store = home.store()
    blobs = home.path / "bundles" / "blobs" / "sha256"
    for path in blobs.iterdir():
        old(path)
    left = [store.add_blob(text, CODE_TYPE) for text in (b"left by a pack", b"of a pack that runs")]
    (blobs / ".new-abc").write_bytes(b"half")
    gone = [old(blobs / left[0].digest.removeprefix("sha256:")), old(blobs / ".new-abc")]
    (blobs / ".new-def").write_bytes(b"arriving just now")
    told = [one for one in collect(home, remove=False) if one.kind == "blob"]
    assert {one.path for one in told} == set(gone)
    assert [one for one in collect(home, remove=True) if one.kind == "blob"] == told
    assert not any(path.exists() for path in gone)
    assert store.read(left[1]) == b"of a pack that runs"
    store.verify(digest)
    assert len(store.attestations(digest)) == 2
    assert list(collect(home, remove=True)) == []


def test_a_blob_that_is_added_again_is_young(tmp_path: Path) -> None:
    """Who finds that his blob is there relies on it; from then on it is no garbage for a day."""
    store = OciStore(tmp_path)
    descriptor = store.add_blob(b"content", CODE_TYPE)
    old(tmp_path / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:"))
    store.add_blob(b"content", CODE_TYPE)
    assert list(store.sweep(remove=True)) == []


def test_nothing_goes_where_a_manifest_can_not_be_read(tmp_path: Path) -> None:
    """Without knowing what all manifests name, nobody knows what is garbage."""
    home = Home(tmp_path / "home")
    digest = store_bundle(home)
    left = home.store().add_blob(b"left", CODE_TYPE)
    blobs = home.path / "bundles" / "blobs" / "sha256"
    old(blobs / left.digest.removeprefix("sha256:"))
    (blobs / digest.removeprefix("sha256:")).write_bytes(b"gone bad")
    with pytest.raises(CorruptBundle):
        list(home.store().sweep(remove=True))
    assert home.store().read(left) == b"left"


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([b"cont", b"ent"], None),
        ([b"cont"], "ended after 4 of 7 bytes"),
        ([b"content", b"!"], "has more than 7 bytes"),
        ([b"c", b"0ntent"], "arrived altered"),
        ([], "ended after 0 of 7 bytes"),
    ],
)
def test_what_arrives_is_checked_as_it_comes(tmp_path: Path, chunks: list[bytes], said: str | None) -> None:
    """Size and digest decide; what is wrong leaves no file, and what is too long is not read to its end."""
    store = OciStore(tmp_path / "store")
    wanted = OciStore(tmp_path / "other").add_blob(b"content", CODE_TYPE, "a/b")
    if said is None:
        store.receive(wanted, chunks)
        assert store.read(wanted) == b"content"
    else:
        with pytest.raises(CorruptBundle, match=f"a/b {said}"):
            store.receive(wanted, iter([*chunks, *[b"x"] * 9]) if "more" in said else chunks)
        assert not store.holds(wanted)
    check_blobs_are_whole(tmp_path / "store")


def test_a_bundle_s_size_is_checked_too(tmp_path: Path) -> None:
    """A manifest that states another size than the file has is found by verify: sizes decide about room."""
    store = OciStore(tmp_path)
    blob = store.add_blob(b"content", CODE_TYPE, "a")
    with pytest.raises(CorruptBundle, match="a is of 7 bytes, the manifest says 8"):
        store._blobs.check(Descriptor(CODE_TYPE, blob.digest, 8, "a"))


def test_what_is_read_whole_has_a_limit(tmp_path: Path) -> None:
    """A document of gigabytes is an error, not the end of the process."""
    store = OciStore(tmp_path)
    huge = Descriptor(DOCUMENT_TYPE, f"sha256:{'1' * 64}", READ_BYTES_MAX + 1, "baseline.json")
    with (tmp_path / "blobs" / "sha256" / ("1" * 64)).open("wb") as file:
        file.truncate(READ_BYTES_MAX + 1)
    with pytest.raises(CorruptBundle, match=r"baseline\.json is too large to be read whole"):
        store.read(huge)
