"""What the monitor hears: the same signals, whether they become columns at one stroke or record by record."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundles.runner.rows import packed
from monitors.heard import Heard, Signals, unfolded
from monitors.log.reader import LogReader
from monitors.log.record import Record, new_id
from monitors.log.writer import SegmentWriter

FLOATS = np.array([0.5, -2.0, np.nan], dtype=np.float32)


def raw(measured: dict[str, np.ndarray]) -> list[msgspec.Raw]:
    """Rows as a worker puts them into records."""
    _fields, rows = packed(measured, 3)
    return [msgspec.Raw(row if isinstance(row, bytes) else row.tobytes()) for row in rows]


@pytest.mark.parametrize("inputs", [1, 20])
@pytest.mark.parametrize("labels", [np.array([3, 1, 2**60]), np.array(["sun", "snow", "❄" * 300])])
def test_rows_become_columns(inputs: int, labels: np.ndarray) -> None:
    """Numbers and text, few signals and more than fifteen: the columns are what was measured."""
    measured = {"class": labels} | {f"input {number} of many" * 3: FLOATS for number in range(inputs)}
    signals = Signals(raw(measured), [1, 1, 1])
    assert signals.of("class") == (labels.tolist(), None)
    for name in list(measured)[1:]:
        values, having = signals.of(name)
        assert having is None
        assert values[:2] == [0.5, -2.0]
        assert math.isnan(values[2])
    assert signals.of("nothing")[0] == []


def test_rows_that_differ_are_read_one_by_one() -> None:
    """Another order of the fields, a field more, several rows in a record, one without any, one from a checkpoint."""
    one, other, _last = raw({"class": np.array([1, 2, 3]), "energy": FLOATS})
    turned = raw({"energy": FLOATS, "class": np.array([7, 8, 9])})[0]
    several = msgspec.Raw(msgspec.msgpack.encode({"class": [4, 5]}))
    signals = Signals([one, turned, several, msgspec.Raw(b"\x80"), {"class": [6]}, other], [1, 1, 2, 1, 1, 1])
    assert signals.of("class") == ([1, 7, 4, 5, 6, 2], [True, True, True, False, True, True])
    assert signals.of("energy") == ([0.5, 0.5, -2.0], [True, True, False, False, False, True])


def test_records_are_heard_as_they_were_written(tmp_path: Path) -> None:
    """Through the log: the fields that are followed, with signals as a dictionary or as the bytes of one."""
    writer = SegmentWriter(tmp_path, "w0", lambda _tokens, _error: None)
    two = {"x": [1, 2]}
    written = [
        Record(
            id=new_id(1), kind="answered", time=1.5, model="m", version="1", status=200, rows=2, signals={"x": [1, 2]}
        ),
        Record(id=new_id(2), kind="refused", time=2.5, model="m", status=400, rows=0),
    ]
    for record in written:
        writer.append(record, None)
    writer.close()
    reader = LogReader(tmp_path)
    heard, cursor = reader.read_as(Heard, {})
    assert [(one.kind, one.time, one.model, one.version, one.rows) for one in heard] == [
        ("answered", 1.5, "m", "1", 2),
        ("refused", 2.5, "m", None, 0),
    ]
    assert [unfolded(one.signals) for one in heard] == [two, {}]
    assert (reader.read_as(Heard, cursor)[0], cursor) == ([], reader.read({})[1])
    reader.close()
