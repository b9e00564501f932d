"""Signed lines: a file of DSSE envelopes as JSON, one a line, to which several processes append.

A line is on stable storage when `append_line` returns. What a process leaves of one when it dies is no line: readers
pass over it, and the next one who appends cuts it.
"""

import fcntl
import os
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from monitors.log.errors import CheckpointUntrusted
from monitors.log.segment import sync_directory

TAIL_BYTES = 512 * 1024
"""Where the newest lines are looked for: a checkpoint of 64 writers, with as many heads carried on, takes 40 KB, and a
note of a thousand erasures as much."""

Envelope = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Notary(Protocol):
    """Signs what is said about the log, and knows whose signatures count."""

    def sign(self, payload: bytes, payload_type: str) -> Envelope:
        """Return the payload in a signed envelope."""
        ...

    def check(self, envelope: Envelope, payload_type: str) -> str:
        """Return the id of the trusted key that signed it. Raises CheckpointUntrusted."""
        ...


def read_lines(path: Path) -> list[bytes]:
    """Read all lines, without their ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return content[: content.rfind(b"\n") + 1].splitlines()


def last_lines(path: Path) -> list[bytes]:
    """Read the newest lines, all of the last `TAIL_BYTES`."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            content = file.read()
    except FileNotFoundError:
        return []
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return lines if size <= TAIL_BYTES else lines[1:]


def open_envelope(raw: bytes, payload_type: str, notary: Notary | None) -> tuple[bytes, str | None]:
    """Return what a line says and the key that signed it; without a notary nobody checks, and the key is None.

    Raises:
        CheckpointUntrusted: it is no envelope, or nobody whose signature counts has signed it.
    """
    try:
        envelope = _decode(raw)
        payload = b64decode(envelope["payload"], validate=True)
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise CheckpointUntrusted(f"not a signed line: {type(error).__name__}: {error}") from error
    return payload, None if notary is None else notary.check(envelope, payload_type)


def line_of(envelope: Envelope) -> bytes:
    """Return an envelope as a line, without its end."""
    return _encode(envelope)


def append_line(path: Path, line: bytes) -> int:
    """Append a line, durably, and return how long the file is; the folder must be `locked`. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        end = _cut_torn(descriptor)
        if os.pwrite(descriptor, line + b"\n", end) != len(line) + 1:
            os.ftruncate(descriptor, end)
            raise OSError(f"{path}: a line was written in part, the disk is full")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if end == 0:
        sync_directory(path.parent)
    return end + len(line) + 1


def replace_lines(path: Path, lines: list[bytes]) -> None:
    """Replace the file by another one that appears whole or not at all; the folder must be `locked`. Raises OSError."""
    making = path.with_suffix(".new")
    with making.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    making.rename(path)
    sync_directory(path.parent)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the log's folder, which is made when it is not there, against all others who append."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _cut_torn(descriptor: int) -> int:
    """Cut what an appender that died has left of a line, and return the end of the file."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - TAIL_BYTES)
    end = start + os.pread(descriptor, TAIL_BYTES, start).rfind(b"\n") + 1
    if end < size:
        os.ftruncate(descriptor, end)
    return end
