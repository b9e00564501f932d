"""The sealer's work, one segment at a time: compress what is closed, project it, remove what is too old or too much.

Every step can be interrupted and is done again: a segment is compressed beside, its files are made beside, the manifest
is changed in one transaction, and what goes is first signed away (`begins` of a checkpoint), then taken out of the
manifest, and then removed. Each piece of work is done under the sealing lock, so that `snowgate log seal` and
`snowgate log forget` may run at the same time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from monitors.log import tensors
from monitors.log.checkpoints import Head, begin_at, begun, take_checkpoint
from monitors.log.contract import Cursor
from monitors.log.errors import LogBusy, LogCorrupt
from monitors.log.label_files import project_labels, withdraw_labels
from monitors.log.manifest import Manifest, Sealed
from monitors.log.projection import FORM, project, remove_files, sweep
from monitors.log.retention import Limits, Removal, decide, has_read
from monitors.log.sealing import clean, closed_segments, seal_segment, sealing
from monitors.log.segment import (
    HEADER_BYTES,
    PARQUET,
    TENSORS,
    Segment,
    numbers,
    plain_numbers,
    sealed_numbers,
    sealed_path,
    segment_path,
    sync_directory,
    writers,
)
from monitors.log.signed import Notary
from monitors.log.writer import SegmentWriter

Cursors = Callable[[], Mapping[str, Cursor]]
"""Tells where every follower stands that has a right to read what it has not read yet, by its name."""


class Sealer:
    """Seals one log."""

    def __init__(
        self,
        directory: Path,
        notary: Notary,
        *,
        limits: Limits,
        cursors: Cursors,
        now: Callable[[], str],
        now_ms: Callable[[], int],
        parquet: ModuleType | None,
    ) -> None:
        """`now` is the time as RFC 3339 and `now_ms` in milliseconds; `parquet` is None where it is not installed."""
        self._directory = directory
        self._notary = notary
        self._limits = limits
        self._cursors = cursors
        self._now = now
        self._now_ms = now_ms
        self._parquet = parquet
        self._unknown: list[tuple[str, int]] = []

    def start(self) -> None:
        """Put in order what a killed sealer left. Raises OSError, apsw.Error."""
        with sealing(self._directory, wait=True), Manifest(self._directory, writable=True) as manifest:
            clean(self._directory)
            self._finish_removal(manifest)
            sweep(self._directory, manifest)
            known = manifest.known()
        every = (
            (writer, number)
            for writer in writers(self._directory)
            for number in sealed_numbers(self._directory, writer)
        )
        self._unknown = [one for one in every if one not in known]

    def turn(self) -> Sealed | None:
        """Seal or project one segment; None when there is nothing to do. Raises OSError, LogCorrupt, apsw.Error."""
        with sealing(self._directory, wait=True), Manifest(self._directory, writable=True) as manifest:
            for writer, number in self._work(manifest):
                # Another one may have been here, or retention.
                with suppress(FileNotFoundError):
                    if segment_path(self._directory, writer, number).exists():
                        seal_segment(self._directory, writer, number)
                    return project(self._directory, manifest, writer, number, parquet=self._parquet)
        return None

    def project_labels(self) -> int:
        """Write the files of labels in which something has changed, and return how many. Raises OSError, apsw.Error."""
        if self._parquet is None:
            return 0
        with sealing(self._directory, wait=True):
            return project_labels(self._directory, self._parquet)

    def retire(self) -> list[Removal]:
        """Remove what is too old or too much, and return it. Raises OSError, LogCorrupt, apsw.Error."""
        if self._limits == Limits():
            return []
        with sealing(self._directory, wait=True), Manifest(self._directory, writable=True) as manifest:
            removals = self._choose(manifest)
            if not removals:
                return []
            begins = {one.segment.writer: one.segment.number + 1 for one in removals}
            heads = [self._beginning(writer, number) for writer, number in begins.items()]
            take_checkpoint(self._directory, self._notary, self._now(), begins=heads)
            self._finish_removal(manifest)
            if any(one.segment.tensor_files for one in removals):
                with suppress(LogCorrupt):  # Nobody knows which files the damaged record names: they stay.
                    tensors.collect(self._directory)
            return removals

    def rebuild(self) -> Iterator[Sealed]:
        """Make the manifest's entries and the Parquet files of all sealed segments again, one a step.

        The files of labels are removed: `project_labels` makes all of them then.
        """
        with sealing(self._directory, wait=True):
            withdraw_labels(self._directory)
        for writer in writers(self._directory):
            for number in sealed_numbers(self._directory, writer):
                lock, missing = sealing(self._directory, wait=True), suppress(FileNotFoundError)  # Retention was here.
                with lock, missing, Manifest(self._directory, writable=True) as manifest:
                    yield project(self._directory, manifest, writer, number, parquet=self._parquet)
        self.start()

    def _work(self, manifest: Manifest) -> Iterator[tuple[str, int]]:
        """Yield what is to be sealed or projected."""
        yield from closed_segments(self._directory)
        while self._unknown:
            yield self._unknown.pop()
        yield from manifest.unprojected(0 if self._parquet is None else FORM)

    def _choose(self, manifest: Manifest) -> list[Removal]:
        """Say what goes; the last segment of each writer stays, because its numbers go on from there."""
        segments = manifest.segments()
        newest = {one.writer: one for one in segments}
        for one in newest.values():
            self._roll(one)
        last = {writer: max(numbers(self._directory, writer), default=0) for writer in newest}
        going = [one for one in segments if one.number < last[one.writer]]
        sizes = {(one.writer, one.number): one.bytes for one in segments}
        for key, size in manifest.file_bytes().items():
            sizes[key] = sizes.get(key, 0) + size
        taken = taken_bytes(self._directory, sum(sizes.values()))
        return list(decide(going, sizes, taken, self._now_ms(), self._limits, self._cursors()))

    def _roll(self, newest: Sealed) -> None:
        """Let a dead writer's last segment have an empty one behind it when it is old, so that it can go."""
        keep = self._limits.keep_ms
        if keep is None or newest.first_seq == newest.end_seq or newest.last_ms >= self._now_ms() - keep:
            return
        if max(numbers(self._directory, newest.writer), default=0) == newest.number:
            with suppress(LogBusy):
                SegmentWriter(self._directory, newest.writer, lambda _tokens, _error: None).close()

    def _beginning(self, writer: str, number: int) -> Head:
        """Return where a chain begins from now on: behind what goes, at the first segment that can be read."""
        for candidate in numbers(self._directory, writer):
            if candidate >= number:
                with suppress(LogCorrupt):
                    return begin_at(self._directory, writer, candidate)
        raise LogCorrupt(segment_path(self._directory, writer, number), writer, -1, 0, "no segment to begin at")

    def _finish_removal(self, manifest: Manifest) -> None:
        """Remove all that lies before the beginnings that were signed."""
        begins = begun(self._directory, self._notary)
        going = [one for one in manifest.segments() if one.number < begins.get(one.writer, 0)]
        cursors = self._cursors() if going else {}
        time = self._now()
        gaps = [(time, name, one) for one in going for name, cursor in cursors.items() if not has_read(cursor, one)]
        paths = [one.path for segment in going for one in manifest.files(segment.writer, segment.number)]
        if going:
            manifest.remove(going, gaps)
        remove_files(self._directory / PARQUET, paths)
        for writer, begin in begins.items():
            before = [number for number in numbers(self._directory, writer) if number < begin]
            for number in before:
                segment_path(self._directory, writer, number).unlink(missing_ok=True)
                sealed_path(self._directory, writer, number).unlink(missing_ok=True)
            if before:
                sync_directory(self._directory / writer)


def taken_bytes(directory: Path, sealed_bytes: int) -> int:
    """Return what the log takes: what is sealed and projected, the open segments, and the files of large tensors."""
    taken = sealed_bytes
    for writer in writers(directory):
        for number in plain_numbers(directory, writer):
            with suppress(FileNotFoundError):
                taken += segment_path(directory, writer, number).stat().st_size
    for path in (directory / TENSORS).glob("??/*"):
        with suppress(FileNotFoundError):
            taken += path.stat().st_size
    return taken


def kept_bundles(directory: Path) -> set[str]:
    """Return the digests of the bundles that kept records name; such bundles are no garbage.

    Of sealed segments the manifest knows them, the others are read. Raises LogCorrupt: a record can't be read.
    """
    with Manifest(directory) as manifest:
        known, found = manifest.known(), manifest.bundles()
    for writer in writers(directory):
        for number in numbers(directory, writer):
            if (writer, number) not in known:
                with suppress(FileNotFoundError), Segment(directory, writer, number) as segment:
                    for frame in segment.frames(HEADER_BYTES, segment.mark().end):
                        bundles = (segment.record(entry).bundle for entry in frame.entries())
                        found |= {one for one in bundles if one is not None}
    return found
