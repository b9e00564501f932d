"""A log that a test writes: records with everything in them, and what was said about each."""

import threading
from collections.abc import Sequence
from pathlib import Path
from time import time_ns
from typing import Any

from monitors.log.reader import LogReader
from monitors.log.record import Payload, Record, Tensor, new_id
from monitors.log.writer import SegmentWriter

WAIT_SECONDS = 30


def record(
    kind: str = "answered", *, data: bytes = bytes(range(12)), now_ns: int | None = None, group: int = 7
) -> Record:
    """Make a record; `data` is its input tensor, `group` the hash of its unit."""
    now = time_ns() if now_ns is None else now_ns
    return Record(
        id=new_id(now),
        kind=kind,
        time=now / 1e9,
        model="signs",
        version="1",
        bundle="sha256:ab",
        variant="stable",
        reason="split",
        probability=0.9,
        status=200,
        group=group,
        signals={"class": [3], "energy": [1.5]},
        timings={"total": 1.25},
        payload=Payload(unit="camera", inputs=[Tensor("x", "UINT8", [len(data)], data)]),
    )


class Logbook:
    """One writer on a folder, and the answers of its `on_durable`."""

    def __init__(
        self, folder: Path, name: str = "w0", segment_bytes: int = 1 << 20, inline_bytes_max: int = 1 << 20
    ) -> None:
        self.folder = folder
        self.name = name
        self.durable: list[str] = []
        self.refused: dict[str, OSError] = {}
        self.batches: list[int] = []
        self._condition = threading.Condition()
        self.writer = SegmentWriter(
            folder, name, self._done, segment_bytes=segment_bytes, inline_bytes_max=inline_bytes_max
        )

    def _done(self, tokens: list[Any], error: OSError | None) -> None:
        with self._condition:
            self.batches.append(len(tokens))
            if error is None:
                self.durable += tokens
            else:
                self.refused |= dict.fromkeys(tokens, error)
            self._condition.notify_all()

    def write(self, records: Sequence[Record]) -> list[str]:
        """Append records, wait until something is said about each, and return their ids."""
        for one in records:
            self.writer.append(one, one.id)
        ids = [one.id for one in records]
        with self._condition:
            assert self._condition.wait_for(lambda: set(ids) <= {*self.durable, *self.refused}, WAIT_SECONDS)
        return ids

    def write_one_by_one(self, count: int) -> list[str]:
        """Write records that each get a frame of their own, and return their ids."""
        return [self.write([record()])[0] for _ in range(count)]

    def path(self, number: int = 1) -> Path:
        """Where a segment lies."""
        return self.folder / self.name / f"{number:010d}.seg"

    def close(self) -> None:
        """Close the writer."""
        self.writer.close()


def ids_read(folder: Path) -> list[str]:
    """Read a log from the beginning to the end."""
    reader, ids = LogReader(folder), []
    records, cursor = reader.read({}, 100)
    while records:
        ids += [one.id for one in records]
        records, cursor = reader.read(cursor, 100)
    reader.close()
    return ids


def flip(path: Path, offset: int) -> None:
    """Flip all bits of one byte on disk."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
