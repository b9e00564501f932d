"""What is looked at after every fault can fail: real logs that are not what clients heard, and each is found out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from monitors.log.errors import LogCorrupt
from monitors.log.record import Payload, Record, Tensor
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures
from tests.monitors.log.logbook import Logbook, flip, record


class Heard(Load):
    """What clients of a gateway sent and heard, as if they had."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__("http://127.0.0.1:1/nobody", clients=0)
        for one in records:
            assert one.payload is not None
            assert one.payload.client_id is not None
            self.sent[one.payload.client_id] = one.payload.inputs[0].data
            self.answered[one.id] = one.payload.client_id


def call(number: int) -> Record:
    """Make the record of a call that a client sent."""
    row = np.full(3, number, "<f4").tobytes()
    answer = Tensor("y", "FP32", [1, 2], bytes(8))
    made = record()
    made.payload = Payload(client_id=f"call-{number}", inputs=[Tensor("x", "FP32", [1, 3], row)], outputs=[answer])
    return made


@pytest.fixture
def calls() -> list[Record]:
    """Ten calls."""
    return [call(number) for number in range(10)]


def write(folder: Path, records: Sequence[Record]) -> Path:
    """Write a log, and return where it lies."""
    book = Logbook(folder / "log")
    book.write(records)
    book.close()
    return folder / "log"


def test_a_whole_log_passes(tmp_path: Path, calls: list[Record]) -> None:
    """Everything that was answered is there; one call more than were heard of counts as not delivered."""
    figures = Figures()
    heard = Heard(calls)
    del heard.answered[calls[3].id]
    figures.check(write(tmp_path, calls), [heard])
    assert figures.told() == {"rounds": 0, "ids": 9, "lost": 0, "phantom": 0, "undelivered": 1}


def test_a_missing_record_is_lost(tmp_path: Path, calls: list[Record]) -> None:
    """The chain of this log holds, and one of the answered ids is not in it."""
    with pytest.raises(AssertionError, match="1 lost of 10"):
        Figures().check(write(tmp_path, calls[1:]), [Heard(calls)])


def test_a_record_of_another_row_is_lost(tmp_path: Path, calls: list[Record]) -> None:
    """The id is there, but what was asked is not what the client sent."""
    heard = Heard(calls)
    heard.sent["call-4"] = bytes(12)
    with pytest.raises(AssertionError, match="1 lost of 10"):
        Figures().check(write(tmp_path, calls), [heard])


def test_a_record_that_nobody_asked_for_is_a_phantom(tmp_path: Path, calls: list[Record]) -> None:
    """A call that no client sent, a second record of one call, and the same record twice."""
    for number, more in enumerate((call(77), call(3), calls[3])):
        with pytest.raises(AssertionError, match="1 phantoms"):
            Figures().check(write(tmp_path / str(number), [*calls, more]), [Heard(calls)])


def test_a_damaged_log_does_not_pass(tmp_path: Path, calls: list[Record]) -> None:
    """One byte of it is altered, wherever."""
    folder = write(tmp_path, calls)
    flip(folder / "w0" / "0000000001.seg", 4_200)
    with pytest.raises(LogCorrupt):
        Figures().check(folder, [Heard(calls)])
