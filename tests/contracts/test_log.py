"""What every prediction log must do; a second implementation joins by a line in IMPLEMENTATIONS."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from monitors.log.contract import LogFollower, LogWriter, OnDurable
from monitors.log.reader import LogReader
from monitors.log.record import Payload, Record, Tensor, new_id
from monitors.log.writer import SegmentWriter

IMPLEMENTATIONS: dict[str, tuple[Callable[[Path, str, OnDurable], LogWriter], Callable[[Path], LogFollower]]] = {
    "segments": (lambda folder, name, durable: SegmentWriter(folder, name, durable, segment_bytes=40_000), LogReader)
}


@dataclass
class Log:
    """A log under test, with what was reported durable."""

    folder: Path
    implementation: str
    durable: list[str] = field(default_factory=list)
    errors: list[OSError] = field(default_factory=list)
    condition: threading.Condition = field(default_factory=threading.Condition)

    def writer(self, name: str = "w0") -> LogWriter:
        """Open a writer."""
        return IMPLEMENTATIONS[self.implementation][0](self.folder, name, self._done)

    def reader(self) -> LogFollower:
        """Open a reader."""
        return IMPLEMENTATIONS[self.implementation][1](self.folder)

    def _done(self, tokens: list[Any], error: OSError | None) -> None:
        with self.condition:
            if error is None:
                self.durable += tokens
            else:
                self.errors.append(error)
            self.condition.notify_all()

    def write(self, writer: LogWriter, count: int) -> list[str]:
        """Write records and wait until they are durable."""
        made = [record() for _ in range(count)]
        for one in made:
            writer.append(one, one.id)
        with self.condition:
            assert self.condition.wait_for(lambda: made[-1].id in self.durable, 20)
        return [one.id for one in made]


def record(kind: str = "answered") -> Record:
    """A record with everything in it."""
    now = time.time_ns()
    return Record(
        id=new_id(now),
        kind=kind,
        time=now / 1e9,
        model="signs",
        version="1",
        bundle="sha256:ab",
        variant="stable",
        status=200,
        group=7,
        signals={"class": [3], "energy": [1.5]},
        timings={"total": 1.25},
        payload=Payload(unit="camera", inputs=[Tensor(name="x", datatype="FP32", shape=[1, 3], data=b"\0" * 12)]),
    )


@pytest.fixture(params=IMPLEMENTATIONS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    """A log, empty."""
    return Log(tmp_path / "log", request.param)


def test_what_is_durable_is_found_by_id(log: Log) -> None:
    """A record comes back whole, with its payload, by its id."""
    writer = log.writer()
    ids = log.write(writer, 50)
    found = log.reader().find(ids[17])
    assert found is not None
    assert found.payload is not None
    assert found.id == ids[17]
    assert found.payload.inputs[0].data == b"\0" * 12
    assert found.signals == {"class": [3], "energy": [1.5]}
    assert log.reader().find(new_id(time.time_ns())) is None
    writer.close()


def test_follow_sees_everything_once(log: Log) -> None:
    """Reading on from a cursor gives every record once, in order, over segments and over a restart of the writer."""
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    written: list[str] = []
    for _ in range(3):
        writer = log.writer()
        for _ in range(8):
            written += log.write(writer, 40)
            records, cursor = log.reader().read(cursor, 25)
            seen += [one.id for one in records]
        writer.close()
    while True:
        records, cursor = log.reader().read(cursor, 1000)
        if not records:
            break
        seen += [one.id for one in records]
    assert seen == written


def test_a_follower_gets_no_payload(log: Log) -> None:
    """The monitors never see what was asked."""
    writer = log.writer()
    log.write(writer, 1)
    records, _cursor = log.reader().read({}, 10)
    assert records[0].payload is None
    writer.close()


def test_numbers_are_gapless_per_writer(log: Log) -> None:
    """Two writers and a restart: each writer's numbers are 0, 1, 2, …"""
    for _ in range(2):
        writers = [log.writer("w0"), log.writer("w1")]
        for writer in writers:
            log.write(writer, 30)
        for writer in writers:
            writer.close()
    records, _cursor = log.reader().read({}, 1000)
    numbers = sorted(one.seq for one in records)
    assert numbers == sorted([*range(60), *range(60)])


def test_verify_counts_by_kind(log: Log) -> None:
    """Verify walks all of it and finds nothing wrong."""
    writer = log.writer()
    log.write(writer, 500)
    refused = record("refused")
    writer.append(refused, refused.id)
    writer.close()
    report = log.reader().verify()
    assert (report.records, report.answered, report.refused, report.first_bad) == (501, 500, 1, None)


def test_close_loses_nothing(log: Log) -> None:
    """What was appended before `close` is durable after it."""
    writer = log.writer()
    ids = []
    for _ in range(300):
        one = record()
        ids.append(one.id)
        writer.append(one, one.id)
    writer.close()
    assert sorted(log.durable) == sorted(ids)


def test_a_late_record_is_found(log: Log) -> None:
    """A prediction may be written long after its admission: its id, which tells the admission, still finds it."""
    writer = log.writer()
    log.write(writer, 60)
    late = record()
    late.id = new_id(time.time_ns() - 3_600 * 10**9)
    writer.append(late, late.id)
    log.write(writer, 60)
    found = log.reader().find(late.id)
    assert found is not None
    assert found.seq == 60
    writer.close()


def test_records_of_all_writers_since_a_moment(log: Log) -> None:
    """Walking from a moment on gives what is not older, of every writer."""
    writers = [log.writer("w0"), log.writer("w1")]
    for writer in writers:
        log.write(writer, 20)
    moment = time.time()
    ids = [one for writer in writers for one in log.write(writer, 20)]
    assert sorted(one.id for one in log.reader().records(since=moment)) == sorted(ids)
    assert all(one.payload is not None for one in log.reader().records(with_payload=True))
    for writer in writers:
        writer.close()


def test_a_cursor_goes_through_json(log: Log) -> None:
    """The monitor keeps its cursor in a document, and goes on from there after a restart."""
    writer = log.writer()
    log.write(writer, 10)
    _records, cursor = log.reader().read({}, 100)
    later = log.write(writer, 10)
    kept = {name: tuple(place) for name, place in json.loads(json.dumps(cursor)).items()}
    assert [one.id for one in log.reader().read(kept, 100)[0]] == later
    writer.close()


def test_a_named_follower_goes_on_behind_its_last_commit(log: Log) -> None:
    """Over segments, restarts of the writers and of the follower, each record comes once behind the last commit; what
    was read and not committed comes again.
    """
    seen: dict[str, list[str]] = {"w0": [], "w1": []}
    written: dict[str, list[str]] = {"w0": [], "w1": []}
    for turn in range(4):
        for name in written:
            writer = log.writer(name)
            for _ in range(5):
                written[name] += log.write(writer, 40)
            writer.close()
        follower = log.reader().follow("export")
        committed, read = follower.read(90), follower.read(90)
        for one in committed:
            seen[one.writer].append(one.id)
        if turn % 2:
            follower.commit()  # Both batches: the follower dies behind them.
            for one in read:
                seen[one.writer].append(one.id)
        else:
            again = log.reader().follow("export")
            again.read(90)
            again.commit()  # Of the first batch only, by another one that stood where the first began.
    while records := (follower := log.reader().follow("export")).read(1000):
        for one in records:
            seen[one.writer].append(one.id)
        follower.commit()
    assert seen == written
    assert (follower.standing.records, follower.standing.gaps) == (1600, [])


def test_followers_do_not_see_each_other(log: Log) -> None:
    """Each name stands where its own commits left it."""
    writer = log.writer()
    ids = log.write(writer, 20)
    first = log.reader().follow("first")
    first.read()
    first.commit()
    assert [one.id for one in log.reader().follow("second").read()] == ids
    assert log.reader().follow("first").read() == []
    writer.close()


def test_a_follower_reads_payloads_when_it_is_told(log: Log) -> None:
    """An exporter sends what was asked and answered; whoever does not say so gets none of it."""
    writer = log.writer()
    log.write(writer, 2)
    (first, _second) = log.reader().follow("export").read(with_payload=True)
    assert first.payload is not None
    assert first.payload.unit == "camera"
    assert [one.payload for one in log.reader().follow("monitor").read()] == [None, None]
    writer.close()


def test_nothing_to_read_is_no_error(log: Log) -> None:
    """A log that nobody has written yet is empty."""
    assert log.reader().read({}, 10) == ([], {})
    assert log.reader().verify().records == 0
