"""Frames: one commit batch as bytes. No files here; the format is described in the package's docstring."""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar
from zlib import crc32

from monitors.log import record as records
from monitors.log.record import Record

PREFIX = struct.Struct("<8sIII")
FIXED = struct.Struct("<32sQIQQ")
ENTRY = struct.Struct("<II32s")
MARKER_BYTES = 8
SALT_BYTES = 16
START_BYTES = PREFIX.size + FIXED.size
ERASED = b"erased. "
"""What a body is filled with when it is erased. Not zeros: those are what a file system leaves of a lost page."""

Form = TypeVar("Form")
Encoded = tuple[bytes, bytes, int]
"""A record on its way into a frame: header, payload, milliseconds of its id."""


@dataclass(frozen=True, slots=True)
class FrameStart:
    """The part of fixed size at the beginning of a frame; `offset` is the frame's place in the segment."""

    offset: int
    checksum: int
    head_bytes: int
    bodies_bytes: int
    previous: bytes
    first_seq: int
    count: int
    first_ms: int
    last_ms: int

    @property
    def bodies_offset(self) -> int:
        """Where the first body begins."""
        return self.offset + PREFIX.size + self.head_bytes

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.bodies_offset + self.bodies_bytes

    @property
    def end_seq(self) -> int:
        """The number of the next frame's first record."""
        return self.first_seq + self.count


@dataclass(frozen=True, slots=True)
class Entry:
    """One record in a frame: its header, and where its body lies in the segment."""

    seq: int
    header: memoryview
    body_offset: int
    body_bytes: int
    digest: bytes

    def record(self) -> Record:
        """Decode the header; the payload stays None."""
        record = records.decode(self.header)
        record.seq = self.seq
        return record

    def body_is_good(self, body: bytes) -> bool:
        """Say whether this is the body that was written, or one that was erased on purpose."""
        if len(body) != self.body_bytes:
            return False
        return sha256(body).digest() == self.digest or body == erased_body(len(body))

    def complete(self, record: Record, body: bytes) -> None:
        """Give a record its payload, unless it was erased."""
        if body == erased_body(len(body)):
            record.payload_state = "erased"
        elif len(body) > SALT_BYTES:
            record.payload = records.decode_payload(memoryview(body)[SALT_BYTES:])


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose checksum holds: everything but the bodies."""

    start: FrameStart
    head: bytes

    def digest(self) -> bytes:
        """What the next frame calls `previous`."""
        return sha256(self.head).digest()

    def decoded(self, decode: Callable[[bytes], list[Form]]) -> list[Form]:
        """Decode all headers at one stroke: `decode` takes a msgpack array of them."""
        headers = self.head[FIXED.size + ENTRY.size * self.start.count :]
        return decode(b"\xdd" + self.start.count.to_bytes(4, "big") + headers)

    def entries(self) -> Iterator[Entry]:
        """Walk the records."""
        view, body_offset = memoryview(self.head), self.start.bodies_offset
        header_offset = FIXED.size + ENTRY.size * self.start.count
        for position in range(self.start.count):
            header_bytes, body_bytes, digest = ENTRY.unpack_from(view, FIXED.size + ENTRY.size * position)
            header = view[header_offset : header_offset + header_bytes]
            yield Entry(self.start.first_seq + position, header, body_offset, body_bytes, digest)
            header_offset += header_bytes
            body_offset += body_bytes


def erased_body(size: int) -> bytes:
    """What stands in the place of a body of this size once it is erased, salt and all.

    >>> erased_body(20)
    b'erased. erased. eras'
    """
    return (ERASED * (size // len(ERASED) + 1))[:size]


def encode_frame(encoded: Sequence[Encoded], first_seq: int, previous: bytes, marker: bytes) -> tuple[bytes, bytes]:
    """Encode one frame and return its bytes and its digest. Raises struct.error above 4 GiB."""
    # One read of the kernel's generator a frame: a system call a record would cost more than its digest.
    salts = os.urandom(SALT_BYTES * len(encoded))
    entries: list[bytes] = []
    bodies: list[bytes] = []
    for position, (header, payload, _milliseconds) in enumerate(encoded):
        body = salts[position * SALT_BYTES : (position + 1) * SALT_BYTES] + payload
        bodies.append(body)
        entries.append(ENTRY.pack(len(header), len(body), sha256(body).digest()))
    times = [milliseconds for _header, _payload, milliseconds in encoded]
    fixed = FIXED.pack(previous, first_seq, len(encoded), min(times), max(times))
    head = b"".join([fixed, *entries, *(header for header, _payload, _milliseconds in encoded)])
    bodies_bytes = sum(map(len, bodies))
    checksum = _checksum(head, len(head), bodies_bytes)
    prefix = PREFIX.pack(marker, checksum, len(head), bodies_bytes)
    return b"".join([prefix, head, *bodies]), sha256(head).digest()


def decode_start(raw: bytes, offset: int, marker: bytes) -> FrameStart | None:
    """Read the part of fixed size, unchecked; None when no frame begins here."""
    if len(raw) < START_BYTES or raw[:MARKER_BYTES] != marker:
        return None
    _marker, checksum, head_bytes, bodies_bytes = PREFIX.unpack_from(raw)
    start = FrameStart(offset, checksum, head_bytes, bodies_bytes, *FIXED.unpack_from(raw, PREFIX.size))
    return start if start.head_bytes >= FIXED.size + ENTRY.size * start.count else None


def head_is_good(start: FrameStart, head: bytes) -> bool:
    """Say whether this head is complete and what was written."""
    return len(head) == start.head_bytes and _checksum(head, len(head), start.bodies_bytes) == start.checksum


def _checksum(head: bytes, head_bytes: int, bodies_bytes: int) -> int:
    return crc32(head, crc32(struct.pack("<II", head_bytes, bodies_bytes)))
