"""Tensors that are too large for a frame: each in a file of its own, named by the SHA-256 of its bytes.

    <log>/tensors/ab/cdef….bin        written and synced before the frame that names it is
    <log>/tensors/lock                held (shared) by a writer from its first file until its frame is on disk

The same bytes are kept once, whoever sent them and however often. So a file goes only when no record names it any
more, and that can't be seen from one record: `collect` looks through all of them. It takes the lock (exclusive) for
the last look and the removal: then every file is named by a frame that can be read, or was given up, and the next
writer that wants it writes it anew. A frame behind the durable mark counts too: its writer may have died, and recovery
will keep it.

A record's header, which can't be erased, only counts its files: who has the bytes could recognise their digest.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from errno import ENOSPC
from hashlib import sha256
from itertools import chain
from pathlib import Path

from monitors.log.errors import LogCorrupt
from monitors.log.frame import Entry, Frame, erased_body
from monitors.log.record import Payload, Record, Tensor
from monitors.log.segment import HEADER_BYTES, TENSORS, Segment, numbers, sync_directory, writers

LOCK = "lock"
SIDES = ("inputs", "outputs", "model_inputs", "model_outputs")
COUNTED = b"tensor_files"
"""The name of the field that only records with files have."""
PIECE_BYTES = 1024 * 1024
WRITTEN_BYTES = 1 << 30
"""In one call; Linux writes 2 GiB at most and then says so by a short count."""
ALTERED = "altered, it does not have the digest that is its name"
Places = dict[str, tuple[int, int]]
"""How far each writer's series was looked through: segment number and offset."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What `collect` removed."""

    files: int = 0
    bytes: int = 0


class TensorFiles:
    """Puts one writer's large tensors into files. Not to be shared between threads."""

    def __init__(self, directory: Path, inline_bytes_max: int) -> None:
        self._directory = directory / TENSORS
        self._inline_bytes_max = inline_bytes_max
        self._held: int | None = None

    def has_large(self, record: Record) -> bool:
        """Say whether any tensor of a record is too large for a frame."""
        payload, limit = record.payload, self._inline_bytes_max
        if payload is None:
            return False
        for tensor in payload.inputs:
            if len(tensor.data) > limit:
                return True
        for tensor in payload.outputs:
            if len(tensor.data) > limit:
                return True
        return any(len(one.data) > limit for one in (*payload.model_inputs, *payload.model_outputs))

    def moved(self, record: Record) -> Record:
        """Return the record with its large tensors in files, which are on stable storage then. Raises OSError."""
        assert record.payload is not None, "it has large tensors"
        record, record.payload = copy(record), copy(record.payload)
        for side in SIDES:
            tensors = [self._moved(one) for one in getattr(record.payload, side)]
            setattr(record.payload, side, tensors)
            record.tensor_files += sum(one.data_ref is not None for one in tensors)
        return record

    def _moved(self, tensor: Tensor) -> Tensor:
        if len(tensor.data) <= self._inline_bytes_max:
            return tensor
        reference = self._put(tensor.data)
        return Tensor(tensor.name, tensor.datatype, tensor.shape, b"", reference, tensor.withheld)

    def _put(self, data: bytes) -> str:
        self._hold()
        digest = sha256(data).hexdigest()
        path = tensor_path(self._directory.parent, digest)
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            sync_directory(self._directory)
        if not path.is_file() or path.stat().st_size != len(data):
            _write(path, data)
        # Also for one that is there: another writer may have named it a moment ago, and not have synced the name.
        sync_directory(path.parent)
        return f"sha256:{digest}"

    def _hold(self) -> None:
        if self._held is None:
            self._directory.mkdir(exist_ok=True)
            sync_directory(self._directory.parent)
            self._held = _locked(self._directory, fcntl.LOCK_SH)

    def settled(self) -> None:
        """Take notice that each record with a file is in a frame on disk, or was given up."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


def tensor_path(directory: Path, digest: str) -> Path:
    """Where the bytes with a digest (hexadecimal) lie in a log."""
    return directory / TENSORS / digest[:2] / f"{digest[2:]}.bin"


def load(directory: Path, payload: Payload) -> None:
    """Read what lies in files into the payload's tensors; a tensor whose file is missing says so.

    Raises:
        ValueError: a file is not what was written.
    """
    for tensor in _referring(payload):
        assert tensor.data_ref is not None, "it refers to a file"
        digest = tensor.data_ref.removeprefix("sha256:")
        path = tensor_path(directory, digest)
        try:
            tensor.data = path.read_bytes()
        except FileNotFoundError:
            tensor.withheld = "gone"
            continue
        if sha256(tensor.data).hexdigest() != digest:
            if not path.exists():  # It was being erased while it was read.
                tensor.data, tensor.withheld = b"", "gone"
                continue
            msg = f"{path}: {ALTERED}"
            raise ValueError(msg)


def problems(directory: Path, payload: Payload, checked: set[str]) -> Iterator[tuple[str, str]]:
    """Say what is wrong with the files that a payload names: `missing` or `altered`, and a sentence.

    `checked` holds the digests of the files that were found good; they are not read again.
    """
    for digest in _digests(payload) - checked:
        path = tensor_path(directory, digest)
        try:
            if _digest(path) == digest:
                checked.add(digest)
            else:
                yield "altered", f"{path}: {ALTERED}"
        except FileNotFoundError:
            yield "missing", f"{path}: not there, though a record names it"


def _referring(payload: Payload) -> Iterator[Tensor]:
    every = chain(payload.inputs, payload.outputs, payload.model_inputs, payload.model_outputs)
    return (tensor for tensor in every if tensor.data_ref is not None)


def _digests(payload: Payload) -> set[str]:
    return {str(tensor.data_ref).removeprefix("sha256:") for tensor in _referring(payload)}


def collect(directory: Path) -> Collected:
    """Remove the files that no kept record names, also beside living writers.

    Their bytes are overwritten first: what is forgotten is to be gone from the disk.

    Raises:
        LogCorrupt: a record can't be read, and so nobody knows which files it names; nothing is removed.
    """
    paths = list((directory / TENSORS).glob("??/*"))
    if not paths:
        return Collected()
    named, places = _named(directory, {})
    files, size = 0, 0
    for path in paths:
        digest = path.parent.name + path.stem
        if digest in named:
            continue
        # Anew for each file: a writer waits no longer than it takes to erase one.
        with _alone(directory / TENSORS):
            more, places = _named(directory, places)
            named |= more
            if digest not in named and path.exists():
                size += _erase(path)
                files += 1
    return Collected(files, size)


def _named(directory: Path, places: Places) -> tuple[set[str], Places]:
    """Return the digests that records behind `places` name, and the places behind them. Raises LogCorrupt."""
    named: set[str] = set()
    moved = dict(places)
    for writer in writers(directory):
        first, offset = moved.get(writer, (0, HEADER_BYTES))
        for number in [one for one in numbers(directory, writer) if one >= first]:
            # One that retention has just removed names nothing any more.
            with suppress(FileNotFoundError), Segment(directory, writer, number) as segment:
                begin, end = offset if number == first else HEADER_BYTES, segment.mark().end
                for frame in segment.frames(begin, end):
                    named.update(*(_named_by(segment, entry) for entry in _with_files(frame)))
                named |= _behind_mark(segment, end)
                moved[writer] = (number, end)
    return named, moved


def _behind_mark(segment: Segment, offset: int) -> set[str]:
    named: set[str] = set()
    size = segment.size
    while offset < size:
        frame = segment.frame(offset, size) or segment.next_frame(offset, size)
        if frame is None:
            break
        for entry in _with_files(frame):
            # A frame with such a body is a torn one, and cut by recovery.
            with suppress(LogCorrupt):
                named |= _named_by(segment, entry)
        offset = frame.start.end
    return named


def _with_files(frame: Frame) -> Iterator[Entry]:
    """Yield the records that have files; few have, and one search in all headers of a frame says so."""
    if COUNTED in frame.head:
        yield from (entry for entry in frame.entries() if COUNTED in bytes(entry.header))


def _named_by(segment: Segment, entry: Entry) -> set[str]:
    record = entry.record()
    entry.complete(record, segment.body(entry))
    return set() if record.payload is None else _digests(record.payload)


def _write(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, but for its directory's sync. Raises OSError."""
    making = path.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        whole = memoryview(data)
        for offset in range(0, len(data), WRITTEN_BYTES):
            piece = whole[offset : offset + WRITTEN_BYTES]
            written = os.write(descriptor, piece)
            if written != len(piece):
                raise OSError(ENOSPC, f"{offset + written} of {len(data)} bytes written, the disk is full", str(making))
        os.fsync(descriptor)
        making.rename(path)
    except OSError:
        making.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _erase(path: Path) -> int:
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        for offset in range(0, size, PIECE_BYTES):
            os.pwrite(file.fileno(), erased_body(min(PIECE_BYTES, size - offset)), offset)
        os.fsync(file.fileno())
    path.unlink()
    sync_directory(path.parent)
    return size


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = _locked(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(directory: Path, how: int) -> int:
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    fcntl.flock(descriptor, how)
    return descriptor


def complete(segment: Segment, entry: Entry, record: Record) -> None:
    """Give a record its payload, with the tensors that lie in files of their own. Raises LogCorrupt."""
    entry.complete(record, segment.body(entry))
    if record.tensor_files and record.payload is not None:
        try:
            load(segment.directory, record.payload)
        except ValueError as error:
            kind = f"damaged payload ({error})"
            raise LogCorrupt(segment.path, segment.writer, entry.seq, entry.body_offset, kind) from error
