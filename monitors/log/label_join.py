"""Joining: which prediction a label is about, and whether the answer was right.

By the prediction's id its record is looked up in the log. By the client's own id (the protocol's `id`) there is an
index, made from the first label by such an id on and kept up to date from then: 70 bytes a prediction that has one. It
holds answered predictions only. A client id that several of them have is ambiguous: what was true of one may not be of
the others, so such a label waits, and says so.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from monitors.log.errors import LogCorrupt
from monitors.log.frame import Frame
from monitors.log.labels import LABEL, Label, LabelStore, Scalar, Target, hashed
from monitors.log.reader import LogReader
from monitors.log.record import Record, Signals, id_milliseconds
from monitors.log.segment import Segment

FEW = 64
"""Predictions up to which each is looked up by itself; with more one walk through their time costs less."""
LATE_SECONDS = 600.0
"""A record is written this long after the time in its id at most: the longest deadline of a call."""
READ_RECORDS = 2_000
PLACE = "clients"
"""Under this name the store keeps how far the log has been read for the clients' ids."""

ClassNames = Callable[[str, str], Sequence[str]]
"""Of a bundle's digest and a label's name: what the classes are called, in their order; empty when nobody said."""


class RowOutOfRange(ValueError):
    """A label names a row that its prediction did not have."""


class LabelJoin:
    """Finds the predictions of labels. Not to be shared between threads."""

    def __init__(self, store: LabelStore, reader: LogReader, class_names: ClassNames) -> None:
        self._store = store
        self._reader = reader
        self._class_names = class_names

    def targets(self, labels: Sequence[Label]) -> list[Target | str | RowOutOfRange]:
        """Return of each label its prediction; the reason why there is none; or that it has no such row.

        What can't be found because the log is damaged there has none, and may be said again when it is mended.
        """
        meant = [self._meant(label) for label in labels]
        records = self._records({one for one, _why in meant if one is not None})
        found: list[Target | str | RowOutOfRange] = []
        for label, (prediction, why) in zip(labels, meant, strict=True):
            record = None if prediction is None else records.get(prediction)
            if record is None:
                found.append(why or f"prediction {prediction}: not in this log")
                continue
            try:
                found.append(self._target(label, record))
            except RowOutOfRange as error:
                found.append(error)
        return found

    def _meant(self, label: Label) -> tuple[str | None, str]:
        """Return the id of the prediction that a label names, or why it is not known."""
        if label.prediction is not None:
            return label.prediction, ""
        assert label.client_id is not None, "a label names a prediction or a client's id"
        known = self._store.by_client(label.client_id)
        if len(known) == 1:
            return known[0], ""
        if not known:
            return None, f"client id {label.client_id[:64]!r}: no prediction that was answered has it"
        some = " and ".join(known[:2])
        text = f"client id {label.client_id[:64]!r}: {len(known)} predictions have it ({some}); label by prediction id"
        return None, text

    def _records(self, ids: set[str]) -> dict[str, Record]:
        found: dict[str, Record] = {}
        if len(ids) <= FEW:
            for one in ids:
                with suppress(LogCorrupt):
                    record = self._reader.find(one)
                    if record is not None:
                        found[one] = record
            return found
        times = [id_milliseconds(one) / 1_000 for one in ids]
        with suppress(LogCorrupt):
            for record in self._reader.records(since=min(times)):
                if record.id in ids:
                    found[record.id] = record
                if len(found) == len(ids) or record.time > max(times) + LATE_SECONDS:
                    break
        return found

    def _target(self, label: Label, record: Record) -> Target:
        row = label.row
        if row is not None and row >= record.rows:
            raise RowOutOfRange(f"row {row}: prediction {record.id} has {record.rows}, from 0")
        if row is None and record.rows == 1:
            row = 0
        correct = loss = None
        if row is not None and record.kind == "answered" and record.bundle is not None:
            names = self._class_names(record.bundle, label.name)
            correct, loss = judged(record.signals, row, label.name, label.value, names)
        return Target(record.id, row, record.model, record.version, correct, loss, record.rows)

    def follow(self, seconds: float) -> bool:
        """Read on in the log for the clients' ids, for so long at most, and join what waited for them.

        Returns whether everything was read.
        """
        place = {writer: tuple(where) for writer, where in (self._store.place(PLACE) or {}).items()}
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            try:
                records, behind = self._reader.read_frames(_with_payload, place, READ_RECORDS)
            except LogCorrupt as damage:
                records, behind = [], self._reader.skip(place, damage)
                if behind == place:
                    return True  # Nothing behind it yet; whoever verifies the log hears of it.
            if behind == place:
                return True
            named = [
                (hashed(one.payload.client_id), one.id)
                for one in records
                if one.kind == "answered" and one.payload is not None and one.payload.client_id is not None
            ]
            self._store.move(PLACE, behind, named)
            place = behind
            self._join(self._store.waiting_for(clients={client for client, _id in named}))
        return False

    def indexed(self) -> bool:
        """Whether the clients' ids are indexed: somebody has labelled by one."""
        return self._store.place(PLACE) is not None

    def again(self, now: float) -> None:
        """Try again what was said of predictions so young that their records may have come since."""
        young = self._store.waiting_predictions(now - LATE_SECONDS)
        self._join(self._store.waiting_for(predictions=young))

    def _join(self, waited: Sequence[tuple[Label, float]]) -> None:
        targets = self.targets([label for label, _received in waited])
        found = zip(waited, targets, strict=True)
        self._store.join([(label, target, came) for (label, came), target in found if isinstance(target, Target)])


def _with_payload(segment: Segment, frame: Frame) -> list[Record]:
    """Take the records of a frame with their payloads, without the tensors in files of their own."""
    found = []
    for entry in frame.entries():
        record = segment.record(entry)
        with suppress(LogCorrupt):
            entry.complete(record, segment.body(entry))
        found.append(record)
    return found


def judged(
    signals: Signals, row: int, name: str, value: Scalar, class_names: Sequence[str] = ()
) -> tuple[bool | None, float | None]:
    """Compare a label with what was predicted of a row: whether the class was right, or the value's squared error.

    A label called `label` is about the signals `class` and `value`, one called after an output about that output's.
    Classes are compared as numbers, as text, or by their names.

    >>> judged({"class": [3]}, 0, "label", 3), judged({"class": [1]}, 0, "label", "snow", ["sun", "snow"])
    ((True, None), (True, None))
    >>> judged({"value": [2.5]}, 0, "label", 2), judged({"energy": [1.0]}, 0, "label", 2)
    ((None, 0.25), (None, None))
    """
    prefix = "" if name == LABEL else f"{name}."
    classes, values = signals.get(f"{prefix}class", []), signals.get(f"{prefix}value", [])
    if row < len(classes):
        return _same_class(classes[row], value, class_names), None
    if row < len(values) and values[row] is not None and isinstance(value, int | float):
        return None, (values[row] - value) ** 2
    return None, None


def _same_class(predicted: int | str, value: Scalar, names: Sequence[str]) -> bool:
    if isinstance(predicted, int) and isinstance(value, int | float):
        return predicted == value
    if isinstance(predicted, int) and 0 <= predicted < len(names) and names[predicted] == value:
        return True
    return str(predicted) == str(value)
