"""Projection: one sealed segment becomes Parquet files, one for each model and day, and an entry in the manifest.

    parquet/model=NAME/date=YYYY-MM-DD/WRITER-NUMBER.parquet

A name says which segment a file is of, so that making it again replaces it. Files are written beside, synced and
renamed; the manifest enters them all at once. What a killed sealer left is not in the manifest and goes at the next
start. Without the extra `parquet` segments are entered without files, and projected when it is there.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

from monitors.log.columns import Columns, day
from monitors.log.errors import LogCorrupt
from monitors.log.frame import Frame
from monitors.log.manifest import NEVER_MS, Manifest, ParquetFile, Sealed
from monitors.log.record import Record
from monitors.log.sealing import file_digest
from monitors.log.segment import HEADER_BYTES, PARQUET, Segment, sync_directory

FORM = 1
"""The form of the files: with another number, all are made again."""
Part = tuple[str, str]
"""Model and day."""


class NotInstalled(Exception):
    """What is asked for needs an extra; the text says which."""


@dataclass(slots=True)
class Survey:
    """What is in a segment."""

    kinds: dict[str, int] = field(default_factory=lambda: {"answered": 0, "refused": 0, "shadow": 0})
    tensor_files: int = 0
    bundles: set[str] = field(default_factory=set)
    parts: dict[Part, Columns] = field(default_factory=dict)
    times: dict[Part, list[int]] = field(default_factory=dict)
    damage: str | None = None

    def take(self, record: Record, *, rows: bool) -> None:
        """Count a record, and keep its rows if they are wanted."""
        self.kinds[record.kind] += 1
        self.tensor_files += record.tensor_files
        if record.bundle is not None:
            self.bundles.add(record.bundle)
        if rows:
            part = (record.model, day(record.time))
            if part not in self.parts:
                self.parts[part], self.times[part] = Columns(), []
            self.parts[part].add(record)
            self.times[part].append(int(record.time * 1e3))


def parquet_writer() -> ModuleType:
    """Return the module that knows Arrow. Raises NotInstalled."""
    try:
        from monitors.log import parquet  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise NotInstalled(f"Parquet needs an extra, pip install 'snowgate[parquet]' ({error})") from error
    return parquet


def project(directory: Path, manifest: Manifest, writer: str, number: int, *, parquet: ModuleType | None) -> Sealed:
    """Enter a sealed segment into the manifest, with its Parquet files where that is installed.

    Raises:
        OSError, LogCorrupt: it can't be read or written.
    """
    with Segment(directory, writer, number) as segment:
        mark, first_seq, path = segment.mark(), segment.header.first_seq, segment.path
        survey = _survey(segment, mark.end, rows=parquet is not None)
    entered = Sealed(
        writer=writer,
        number=number,
        first_seq=first_seq,
        end_seq=mark.next_seq,
        first_ms=min(mark.first_ms, NEVER_MS),
        last_ms=mark.last_ms,
        **survey.kinds,
        tensor_files=survey.tensor_files,
        last_offset=mark.end,
        bytes=path.stat().st_size,
        sha256=file_digest(path),
        damage=survey.damage,
    )
    files = []
    if parquet is not None:
        entered = replace(entered, projected=FORM)
        files = [_write(directory, entered, part, survey, parquet) for part in sorted(survey.parts)]
    before = {one.path for one in manifest.files(writer, number)}
    manifest.put(entered, files, survey.bundles)
    remove_files(directory / PARQUET, before - {one.path for one in files})
    return entered


def withdraw(directory: Path, manifest: Manifest, writer: str, number: int) -> None:
    """Remove a segment's Parquet files, before something in the segment is erased; the sealer makes them anew."""
    remove_files(directory / PARQUET, manifest.withdraw(writer, number))


def remove_files(folder: Path, paths: Iterator[str] | set[str] | list[str]) -> None:
    """Remove Parquet files by their paths in a folder, and the folders that are empty then."""
    for path in paths:
        file = folder / path
        file.unlink(missing_ok=True)
        with suppress(OSError):
            sync_directory(file.parent)
            file.parent.rmdir()
            file.parent.parent.rmdir()


def sweep(directory: Path, manifest: Manifest) -> None:
    """Remove every file of the projection that the manifest does not know; the sealing lock must be held."""
    known = manifest.paths()
    found = (path for path in (directory / PARQUET).glob("model=*/date=*/*") if path.is_file())
    names = (str(path.relative_to(directory / PARQUET)) for path in found)
    remove_files(directory / PARQUET, [name for name in names if name not in known])


def _survey(segment: Segment, end: int, *, rows: bool) -> Survey:
    survey = Survey()

    def damaged(error: LogCorrupt) -> None:
        survey.damage = survey.damage or str(error)

    for frame in _frames(segment, end, damaged):
        for entry in frame.entries():
            record = segment.record(entry)
            if rows:
                try:
                    entry.complete(record, segment.body(entry))
                except LogCorrupt as error:
                    damaged(error)
            survey.take(record, rows=rows)
    return survey


def _frames(segment: Segment, end: int, damaged: Callable[[LogCorrupt], None]) -> Iterator[Frame]:
    """Walk the frames, also behind damage."""
    offset = HEADER_BYTES
    while offset < end:
        frame = segment.frame(offset, end)
        if frame is None:
            damaged(segment.damage(offset, end))
            frame = segment.next_frame(offset, end)
            if frame is None:
                return
        yield frame
        offset = frame.start.end


def _write(directory: Path, entered: Sealed, part: Part, survey: Survey, parquet: ModuleType) -> ParquetFile:
    model, date = part
    name = f"model={quote(model, safe='')}/date={date}/{entered.writer}-{entered.number:010d}.parquet"
    columns = survey.parts.pop(part)  # One model's rows may take as much memory as the segment.
    digest, size = publish(directory, PARQUET, name, lambda path: parquet.write(parquet.table(columns), path))
    times = survey.times[part]
    return ParquetFile(
        name, entered.writer, entered.number, model, date, len(columns.fixed), min(times), max(times), size, digest
    )


def publish(directory: Path, folder: str, name: str, write: Callable[[Path], None]) -> tuple[str, int]:
    """Have a file written, which appears whole and durably in a folder of the log; return its digest and size."""
    path = directory / folder / name
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        for one in (directory, directory / folder, path.parents[1]):
            sync_directory(one)
    # A name with a dot in front is passed over by those who read the whole folder.
    making = path.with_name(f".{path.name}.new")
    write(making)
    with making.open("rb") as file:
        os.fsync(file.fileno())
    digest, size = file_digest(making), making.stat().st_size
    making.rename(path)
    sync_directory(path.parent)
    return digest, size
