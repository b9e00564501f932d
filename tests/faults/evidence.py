"""What is looked at after every fault: the promise, in figures.

The number of rounds comes from the variable ROUNDS (`make faults ROUNDS=n`); without it each test has a short form.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitors.log.contract import Place
from monitors.log.reader import LogReader
from monitors.log.record import Record
from tests.end_to_end.load import Load

FOUND_MAX = 200
"""How many answered ids are looked up one by one; all of them are looked for by reading the whole log."""


def rounds(short: int) -> int:
    """How many rounds of a fault to run."""
    return int(os.environ.get("ROUNDS") or short)


def moment(chance: random.Random, seconds: float = 0.3) -> None:
    """Let a moment pass: the fault's own, not a wait for something."""
    time.sleep(chance.uniform(0, seconds))


@dataclass
class Figures:
    """What the faults of one test came to.

    `ids` are the answered ones that were looked for. `lost` are those of them whose record is not there as it was
    asked and answered. `phantom` are records that nobody asked for: of a call that no client sent, or a second one of
    the same call. `undelivered` are records of calls whose client heard nothing: it is allowed, and counted.
    """

    rounds: int = 0
    ids: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    phantom: set[str] = field(default_factory=set)
    undelivered: set[str] = field(default_factory=set)

    def told(self) -> dict[str, int]:
        """Return the figures."""
        return {name: one if isinstance(one, int) else len(one) for name, one in vars(self).items()}

    def check(self, folder: Path, loads: Iterable[Load], answered: Mapping[str, str] | None = None) -> None:
        """Compare a log with what clients sent and heard, and fail when a record is missing or nobody's.

        `answered` is what they had heard by a certain moment, where the log is as it was then.
        """
        sent: dict[str, bytes] = {}
        heard: dict[str, str] = {}
        for load in loads:
            sent |= load.sent
            heard |= load.answered
        heard = heard if answered is None else dict(answered)
        ids = []
        calls = {client_id: prediction_id for prediction_id, client_id in heard.items()}
        asked: set[str] = set()
        for record in LogReader(folder).records(with_payload=True):
            ids.append(record.id)
            client_id = None if record.payload is None else record.payload.client_id
            if client_id is None and record.kind == "refused":
                continue  # Its client was gone before its body had come.
            if client_id not in sent or client_id in asked or calls.get(client_id, record.id) != record.id:
                self.phantom.add(record.id)
            elif client_id not in calls:
                self.undelivered.add(record.id)
            elif not _as_answered(record, sent[client_id]):
                self.lost.add(record.id)
            asked.add(client_id or "")
        self.check_ids(folder, list(heard), ids)

    def check_ids(self, folder: Path, durable: list[str], there: list[str] | None = None) -> None:
        """Check that each of these ids is in the log, that the chain holds, and that a follower meets all of it once.

        `there` are the ids of all records, where somebody has read them already.
        """
        if there is None:
            there = [one.id for one in LogReader(folder).records()]
        self.ids |= set(durable)
        self.lost |= set(durable) - set(there)
        self.phantom |= {one for one, count in Counter(there).items() if count > 1}
        assert not self.lost, f"{len(self.lost)} lost of {len(self.ids)}, such as {sorted(self.lost)[:3]}"
        assert not self.phantom, f"{len(self.phantom)} phantoms, such as {sorted(self.phantom)[:3]}"
        assert sorted(followed(folder)) == sorted(there)
        reader = LogReader(folder)
        for one in random.sample(durable, min(FOUND_MAX, len(durable))):
            record = reader.find(one)
            assert record is not None, one
            assert record.payload is not None, one
        report = reader.verify()
        assert (report.first_bad, report.records) == (None, len(there))


def followed(folder: Path) -> list[str]:
    """Follow a log to its end, each step by a new reader with the cursor as it comes out of JSON; return the ids."""
    cursor: dict[str, Place] = {}
    ids: list[str] = []
    while True:
        reader = LogReader(folder)
        records, moved = reader.read(cursor, random.randint(100, 10_000))
        reader.close()
        if not records:
            return ids
        ids += [one.id for one in records]
        cursor = json.loads(json.dumps(moved))


def _as_answered(record: Record, row: bytes) -> bool:
    payload = record.payload
    assert payload is not None, "its client's id was read from it"
    return record.kind == "answered" and [one.data for one in payload.inputs] == [row] and len(payload.outputs) == 1
