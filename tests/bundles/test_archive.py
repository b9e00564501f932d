"""One file there and back, and every way in which an archive from anybody can be wrong."""

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bundles import archive
from bundles.archive import Archive, write_archive
from bundles.errors import BundleError, CorruptBundle, HomeError, UnknownReference
from bundles.home import Home
from bundles.layout import INDEX_BYTES_MAX
from bundles.remote import transfer
from bundles.remote.transfer import accept, receive
from tests.bundles.portable import check_blobs_are_whole, check_nothing_half_written, sign, store_bundle

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def packed_file(tmp_path: Path) -> bytes:
    """The bytes of an archive of a signed bundle."""
    home = Home(tmp_path / "sender")
    return exported(home, store_bundle(home))


@pytest.fixture
def receiver(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "receiver").make()


def exported(home: Home, digest: str) -> bytes:
    """Export."""
    file = io.BytesIO()
    assert write_archive(home.store(), digest, file, lambda _text: None) == file.tell()
    return file.getvalue()


def imported(home: Home, data: bytes, *, pipe: bool = False) -> str:
    """Import, and return the version."""
    file = Pipe(data) if pipe else io.BytesIO(data)
    source = Archive(file, "a.tar")
    arrived = receive(home, source, source.bundle(), say=lambda _text: None)
    source.finish()
    return accept(home, arrived, origin="a.tar", actor="a tester")


class Pipe(io.BytesIO):
    """Bytes that can only be read in order."""

    def seekable(self) -> bool:
        """Say no."""
        return False


def opened(data: bytes) -> Members:
    """Take an archive apart, to be spoilt."""
    with tarfile.open(fileobj=io.BytesIO(data)) as taken:
        return [(one, file.read() if (file := taken.extractfile(one)) else b"") for one in taken]


def closed(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Put an archive together again."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """Make one member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


@pytest.mark.parametrize("pipe", [False, True])
def test_there_and_back(packed_file: bytes, receiver: Home, pipe: bool) -> None:
    """A bundle comes back with its signature, from a file and from a pipe; a second time it keeps its version."""
    assert imported(receiver, packed_file, pipe=pipe) == "1"
    (digest,) = receiver.store().list()
    receiver.store().verify(digest)
    assert len(receiver.store().attestations(digest)) == 1
    assert imported(receiver, packed_file, pipe=pipe) == "1"
    assert exported(receiver, digest) == packed_file, "the same bytes from another home"


def test_the_order_of_statements_is_not_that_of_their_coming(tmp_path: Path) -> None:
    """Two homes that hold the same statements write the same archive."""
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    digest = store_bundle(one)
    for said in "abc":
        sign(one, digest, said)
    imported(two.make(), exported(one, digest))
    envelopes = one.store().attestations(digest)
    three = Home(tmp_path / "three").make()
    imported(three, exported(two, digest))
    assert sorted(map(str, three.store().attestations(digest))) == sorted(map(str, envelopes))
    assert exported(three, digest) == exported(one, digest)


def test_a_layout_in_another_order_is_read_from_a_file_only(packed_file: bytes, receiver: Home) -> None:
    """Other programs write blobs first; from a pipe that is an error that says what to do."""
    other = closed(sorted(opened(packed_file), key=lambda one: one[0].name), tarfile.GNU_FORMAT)
    with pytest.raises(CorruptBundle, match=r"comes in a\.tar before the manifest.*not a pipe"):
        imported(receiver, other, pipe=True)
    check_nothing_half_written(receiver)
    assert imported(receiver, other) == "1"


def test_an_archive_cut_anywhere_is_refused(packed_file: bytes, receiver: Home) -> None:
    """At every block and at many bytes between: what is not whole is not imported."""
    places = {*range(0, len(packed_file) - 1024, 512), *random.Random(5).sample(range(len(packed_file) - 1024), 40)}
    for place in places:
        with pytest.raises(CorruptBundle, match=r"a\.tar is cut off"):
            imported(receiver, packed_file[:place])
    check_nothing_half_written(receiver)


def test_an_archive_with_any_bit_flipped_is_refused_or_the_same(packed_file: bytes, receiver: Home) -> None:
    """A flipped bit is found, unless it is one that means nothing: padding, an owner's name."""
    chance = random.Random(7)
    for _round in range(150):
        spoilt = bytearray(packed_file)
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        with suppress(BundleError):
            imported(receiver, bytes(spoilt))
    assert len(receiver.store().list()) <= 1
    for digest in receiver.store().list():
        receiver.store().verify(digest)
    check_blobs_are_whole(receiver.path / "bundles")


BLOB = f"blobs/sha256/{'0' * 64}"


def twice(members: Members) -> None:
    """Name the bundle twice in the index."""
    text = members[1][1].decode()
    entry = text[text.index("[") + 1 : text.index("},") + 1]
    members[1] = member("index.json", text.replace("[", f"[{entry},", 1).encode())


def longer(members: Members) -> None:
    """Make the last but one file a byte longer; `outputs` and `{}` are the last two."""
    at = next(number for number, one in enumerate(members) if one[1] == b"outputs")
    members[at] = member(members[at][0].name, b"outputs!!")


EVIL: dict[str, tuple[Callable[[Members], object], str]] = {
    "climbing": (lambda them: them.append(member("../../evil", b"x")), "named '../../evil'; expected oci-layout"),
    "climbing inside": (lambda them: them.append(member("blobs/sha256/../../x", b"x")), "named 'blobs/sha256/../../x'"),
    "absolute": (lambda them: them.append(member("/etc/cron.d/evil", b"x")), "named '/etc/cron.d/evil'"),
    "first": (lambda them: them.insert(0, member("../evil", b"x")), "named '../evil'"),
    "symbolic link": (
        lambda them: them.append(member(BLOB, kind=tarfile.SYMTYPE, link="/etc/passwd")),
        "a symbolic link",
    ),
    "link in place": (
        lambda them: them.insert(1, member("index.json", kind=tarfile.SYMTYPE, link="/x")),
        "a symbolic link",
    ),
    "hard link": (lambda them: them.append(member(BLOB, kind=tarfile.LNKTYPE, link="index.json")), "a hard link"),
    "device": (lambda them: them.append(member(BLOB, kind=tarfile.CHRTYPE)), "a device"),
    "block device": (lambda them: them.append(member(BLOB, kind=tarfile.BLKTYPE)), "a device"),
    "pipe": (lambda them: them.append(member(BLOB, kind=tarfile.FIFOTYPE)), "a named pipe"),
    "sparse": (lambda them: them.append(member(BLOB, kind=tarfile.GNUTYPE_SPARSE)), "a sparse file"),
    "extended header": (
        lambda them: them.insert(0, member("x", b"x" * 99, tarfile.XHDTYPE)),
        "a header of the type b'x'",
    ),
    "long name": (lambda them: them.insert(0, member("x", b"x" * 99, tarfile.GNUTYPE_LONGNAME)), "of the type b'L'"),
    "twice": (lambda them: them.append(them[1]), "holds index.json twice"),
    "other layout": (
        lambda them: them.__setitem__(0, member("oci-layout", b'{"imageLayoutVersion":"9"}')),
        "has the layout",
    ),
    "no index": (lambda them: them.pop(1), "index.json is not in it"),
    "bad index": (lambda them: them.__setitem__(1, member("index.json", b"[]")), "is not the index"),
    "two bundles": (twice, "has 2 bundles in its index"),
    "huge index": (
        lambda them: them.__setitem__(1, member("index.json", bytes(INDEX_BYTES_MAX + 1))),
        "expected at most",
    ),
    "file missing": (lambda them: them.pop(), "is not in it; it is no bundle, or not all of one"),
    "file too long": (longer, "has 9 bytes in a.tar, and 7"),
    "file altered": (lambda them: them.__setitem__(-1, (them[-1][0], b"X" * len(them[-1][1]))), "arrived altered"),
    "manifest altered": (
        lambda them: them.__setitem__(2, (them[2][0], b" " * len(them[2][1]))),
        "not what was asked for",
    ),
}


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("evil", EVIL)
def test_what_a_layout_does_not_have_is_refused(packed_file: bytes, receiver: Home, evil: str, pipe: bool) -> None:
    """Each kind of evil member is named, and not a byte of it, or of a bundle beside it, gets a name in the home."""
    spoil, said = EVIL[evil]
    members = opened(packed_file)
    spoil(members)
    with pytest.raises(BundleError) as caught:
        imported(receiver, closed(members, tarfile.GNU_FORMAT), pipe=pipe)
    assert said in str(caught.value)
    check_nothing_half_written(receiver)
    assert not (receiver.path.parent / "evil").exists()


def test_too_many_members_are_refused_early(packed_file: bytes, receiver: Home) -> None:
    """Endless names of nothing are not all read."""
    many = [member(f"blobs/sha256/{number:064x}") for number in range(archive.MEMBERS_MAX + 1)]
    with pytest.raises(CorruptBundle, match=f"more than {archive.MEMBERS_MAX} files"):
        imported(receiver, closed([*opened(packed_file), *many]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is cut off; it should go on at byte 0"),
        (b"no archive at all" * 100, "is no tar archive at byte 0"),
        (gzip.compress(random.Random(1).randbytes(2000)), "is compressed: gzip it first"),
        (b"PK\x03\x04" + bytes(1000), "is compressed: unzip it first"),
        (bytes(1024), "oci-layout is not in it"),
    ],
)
def test_what_is_no_archive_says_so(receiver: Home, data: bytes, said: str) -> None:
    """Something else than an archive is told from a spoilt one."""
    with pytest.raises(BundleError, match=said):
        imported(receiver, data)


def test_a_file_that_claims_to_be_huge_costs_nothing(packed_file: bytes, receiver: Home) -> None:
    """A header may say exabytes; nothing is reserved, and no gigabyte is read into memory."""
    huge = tarfile.TarInfo(BLOB)
    huge.size = 2**60
    spoilt = packed_file[:-1024] + huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(CorruptBundle, match="is cut off"):
        imported(receiver, spoilt)
    check_nothing_half_written(receiver)


def test_more_than_there_is_room_for_is_said_before(
    packed_file: bytes, receiver: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a manifest announces is compared with what is free, and the log's share is left alone."""
    monkeypatch.setattr(transfer, "ROOM_BYTES", 2**62)
    with pytest.raises(HomeError, match=r"bytes are to come and .* are free; make room"):
        imported(receiver, packed_file)
    check_nothing_half_written(receiver)


def test_files_above_8_gibibytes_have_numbers_that_hold_them() -> None:
    """GNU's way to write a size, which the reader reads, where the old form has not enough digits."""
    info = tarfile.TarInfo(BLOB)
    info.size = 9 * 1024**3
    again = tarfile.TarInfo.frombuf(info.tobuf(tarfile.GNU_FORMAT), "utf-8", "strict")
    assert again.size == info.size


LIMITED = """
import resource, signal, sys
from pathlib import Path
from bundles.archive import Archive
from bundles.errors import HomeError
from bundles.home import Home
from bundles.remote.transfer import receive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
home = Home(Path(sys.argv[2])).make()
home.store()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
with open(sys.argv[1], "rb") as file:
    archive = Archive(file, "a.tar")
    try:
        receive(home, archive, archive.bundle(), say=print)
    except HomeError as error:
        print("HomeError:", error)
"""


def test_a_disk_that_fills_up_is_said_and_nothing_is_half_written(tmp_path: Path, receiver: Home) -> None:
    """A write that fails in the middle of a file takes the file away again, and says which could not be written."""
    home = Home(tmp_path / "sender")
    (tmp_path / "a.tar").write_bytes(exported(home, store_bundle(home, bytes(1_000_000))))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.tar"), str(receiver.path)],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert "HomeError: " in done.stdout
    assert "can't be written: File too large; make room" in done.stdout
    check_nothing_half_written(receiver)


def test_what_is_not_here_can_not_be_exported(receiver: Home) -> None:
    """An unknown digest writes nothing."""
    file = io.BytesIO()
    with pytest.raises(UnknownReference):
        write_archive(receiver.store(), f"sha256:{'0' * 64}", file, lambda _text: None)
    assert file.getvalue() == b""
