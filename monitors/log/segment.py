"""Segments and frames on disk: writing their bytes, walking them, and mending what a crash left.

The format is described in the package's docstring.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from monitors.log import record as records
from monitors.log.errors import LogCorrupt, LogError
from monitors.log.record import Record

MAGIC = b"SNOWLOG1"
FRAME_MAGIC = b"FRM1"
HEADER = struct.Struct("<8sIIQQQQ32s64s")
HEADER_BYTES = 256
MARK_OFFSET = 16
STATE_OFFSET = 12
FRAME = struct.Struct("<4sIIIQQQ32s")
RECORD = struct.Struct("<II32s")
SALT_BYTES = 16
FRAME_BYTES_MAX = 1 << 30
"""A longer claim is damage: a batch ends at 64 MiB (`writer.BATCH_BYTES_MAX`) or with one record."""
WRITTEN, CLOSED = 0, 1
NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The fixed part at the beginning of a segment."""

    writer: str
    number: int
    epoch_ns: int
    first_seq: int
    previous: bytes
    mark: int = HEADER_BYTES
    state: int = WRITTEN

    def encode(self) -> bytes:
        """The 256 bytes."""
        name = self.writer.encode().ljust(64, b"\0")
        packed = HEADER.pack(
            MAGIC, 1, self.state, self.mark, self.number, self.epoch_ns, self.first_seq, self.previous, name
        )
        return packed.ljust(HEADER_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The fixed part at the beginning of a frame; `offset` and `end` are its place in the segment."""

    offset: int
    length: int
    count: int
    first_seq: int
    first_ms: int
    last_ms: int
    previous: bytes

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.offset + FRAME.size + self.length


def segment_path(directory: Path, writer: str, number: int) -> Path:
    """Where a segment lies."""
    return directory / f"{writer}-{number:08d}.seg"


def segments(directory: Path) -> dict[str, list[int]]:
    """List the segments in a directory: the numbers of each writer, ascending."""
    found: dict[str, list[int]] = {}
    for entry in os.scandir(directory):
        writer, _, number = entry.name.removesuffix(".seg").rpartition("-")
        if entry.name.endswith(".seg") and number.isdigit():
            found.setdefault(writer, []).append(int(number))
    return {writer: sorted(numbers) for writer, numbers in sorted(found.items())}


def read_header(file: BinaryIO, path: Path) -> SegmentHeader:
    """Read a segment's header. Raises LogError."""
    raw = os.pread(file.fileno(), HEADER_BYTES, 0)
    if len(raw) < HEADER_BYTES or raw[:8] != MAGIC:
        msg = f"{path}: not a log segment: begins with {raw[:8]!r}, expected {MAGIC!r}"
        raise LogError(msg)
    _magic, _version, state, mark, number, epoch_ns, first_seq, previous, name = HEADER.unpack_from(raw)
    return SegmentHeader(name.rstrip(b"\0").decode(), number, epoch_ns, first_seq, previous, mark, state)


def encode_frame(encoded: Iterable[tuple[bytes, bytes, int]], first_seq: int, previous: bytes) -> tuple[bytes, bytes]:
    """Encode one frame of (header, payload, id milliseconds) and return its bytes and its digest."""
    parts: list[bytes] = []
    times: list[int] = []
    # One read of the kernel's generator for the whole frame: a system call a record would cost more than its digest.
    batch = list(encoded)
    salts = os.urandom(SALT_BYTES * len(batch))
    chain = sha256()
    chain.update(struct.pack("<IQ", len(batch), first_seq) + previous)
    for position, (header, payload, milliseconds) in enumerate(batch):
        body = salts[position * SALT_BYTES : (position + 1) * SALT_BYTES] + payload
        digest = sha256(body).digest()
        parts += (RECORD.pack(len(header), len(body), digest), header, body)
        chain.update(header)
        chain.update(digest)
        times.append(milliseconds)
    length = sum(map(len, parts))
    fixed = FRAME.pack(FRAME_MAGIC, 0, length, len(batch), first_seq, min(times), max(times), previous)
    checksum = crc32(fixed[8:])
    for part in parts:
        checksum = crc32(part, checksum)
    return b"".join([fixed[:4], checksum.to_bytes(4, "little"), fixed[8:], *parts]), chain.digest()


def frame_header(raw: bytes, offset: int) -> FrameHeader | None:
    """Read a frame's fixed part; None when there is no frame here."""
    if len(raw) < FRAME.size:
        return None
    magic, _checksum, length, count, first_seq, first_ms, last_ms, previous = FRAME.unpack_from(raw)
    if magic != FRAME_MAGIC or length > FRAME_BYTES_MAX:
        return None
    return FrameHeader(offset, length, count, first_seq, first_ms, last_ms, previous)


def read_frame(file: BinaryIO, offset: int) -> tuple[FrameHeader, bytes] | None:
    """Read the frame at an offset and check its sum; None when there is none, or not all of it, or it is damaged."""
    raw = os.pread(file.fileno(), FRAME.size, offset)
    header = frame_header(raw, offset)
    if header is None:
        return None
    payload = os.pread(file.fileno(), header.length, offset + FRAME.size)
    whole = len(payload) == header.length
    if not whole or crc32(payload, crc32(raw[8:])) != int.from_bytes(raw[4:8], "little"):
        return None
    return header, payload


def unpack(payload: bytes) -> Iterator[tuple[memoryview, memoryview, bytes]]:
    """Split a frame's payload into (header, body, digest of the body); an erased body is empty."""
    view, offset = memoryview(payload), 0
    while offset < len(view):
        header_bytes, body_bytes, digest = RECORD.unpack_from(view, offset)
        offset += RECORD.size
        yield view[offset : offset + header_bytes], view[offset + header_bytes :][:body_bytes], digest
        offset += header_bytes + body_bytes


def decode_records(header: FrameHeader, payload: bytes, *, with_payload: bool) -> list[Record]:
    """Decode a frame's records and number them."""
    found = []
    for position, (head, body, _digest) in enumerate(unpack(payload)):
        record = records.decode(head, body[SALT_BYTES:] if with_payload else None)
        record.seq = header.first_seq + position
        found.append(record)
    return found


def frame_digest(header: FrameHeader, payload: bytes) -> bytes:
    """Compute a frame's digest, the next one's `previous`."""
    chain = sha256(struct.pack("<IQ", header.count, header.first_seq) + header.previous)
    for head, _body, digest in unpack(payload):
        chain.update(head)
        chain.update(digest)
    return chain.digest()


def next_frame(file: BinaryIO, offset: int) -> int | None:
    """Look for the next good frame behind damage; None when there is none up to the end of the file."""
    size = os.fstat(file.fileno()).st_size
    rest = os.pread(file.fileno(), size - offset, offset)
    position = rest.find(FRAME_MAGIC, 1)
    while position >= 0:
        if read_frame(file, offset + position) is not None:
            return offset + position
        position = rest.find(FRAME_MAGIC, position + 1)
    return None


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a segment ends: what its writer's next segment goes on from."""

    number: int
    next_seq: int
    digest: bytes
    cut_bytes: int


def recover(path: Path, until_seq: int | None = None) -> Recovered:
    """Bring a segment whose writer is gone to an end: cut a torn tail, sync, publish the mark, close.

    What was written but not yet synced when the writer died is synced here, before anybody may read it. `until_seq` is
    where the writer's next segment begins: frames from there on were given up after an error and written again.

    Raises:
        LogCorrupt: there is damage with good frames behind it. Nothing is changed then.
    """
    with path.open("r+b") as file:
        header = read_header(file, path)
        offset, seq, digest = HEADER_BYTES, header.first_seq, header.previous
        while (frame := read_frame(file, offset)) is not None and seq != until_seq:
            offset, seq = frame[0].end, frame[0].first_seq + frame[0].count
            digest = frame_digest(*frame)
        size = os.fstat(file.fileno()).st_size
        if size > offset and seq != until_seq:
            resume = next_frame(file, offset)
            if resume is not None:
                raise LogCorrupt(path, header.writer, seq, offset, "damaged frame", resume)
        if header.state != CLOSED:
            os.ftruncate(file.fileno(), offset)
            os.fsync(file.fileno())
            os.pwrite(file.fileno(), CLOSED.to_bytes(4, "little") + offset.to_bytes(8, "little"), STATE_OFFSET)
            os.fsync(file.fileno())
    return Recovered(header.number, seq, digest, max(0, size - offset))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable, after a file was made or removed in it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
