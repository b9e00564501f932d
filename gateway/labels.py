"""Labels as they come from outside: checked, joined with the log, kept; and what is told of them.

The admin API and the command line both come through here. A label that can't be one is named and stops no other.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from threading import Lock
from time import time
from typing import Any
from uuid import UUID

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from bundles.bundle import open_bundle
from bundles.errors import BundleError
from bundles.home import Home
from gateway.audit import rfc3339
from monitors.log.label_join import PLACE, LabelJoin
from monitors.log.labels import FILE, LABEL, Label, LabelStore, Said, Target
from monitors.log.reader import LogReader
from monitors.log.record import id_milliseconds

LABELS_MAX = 10_000
"""Labels of one call: some 2 MB of JSON, a third of a second."""
TEXT_CHARACTERS_MAX = 1_024
"""Of a label's text, or a client's id."""
NAME_CHARACTERS_MAX = 128
ROWS_MAX = 1_000_000
SECONDS_MAX = 253_402_300_799.0
"""The end of the year 9999, the last that RFC 3339 can write."""
INDEX_SECONDS = 2.0
"""How long a call reads on in the log for clients' ids; what was not reached is joined later."""
FIELDS = ("prediction_id", "client_id", "row", "value", "name", "time", "source")


class Labels:
    """The labels of one home. Safe to use from several threads and processes."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._opened: LabelStore | None = None
        self._opening = Lock()
        self._following = Lock()
        self._names: dict[tuple[str, str], Sequence[str]] = {}

    def add(self, documents: Sequence[Mapping[str, Any]], source: str) -> dict[str, Any]:
        """Keep labels, durably; `source` is who says those that don't say so themselves.

        Returns how many were `accepted`, `duplicate` (said before), `unmatched` (kept, without a prediction) and
        `refused`, and of the last two the `problems`: `index`, `outcome` and `problem`.
        """
        outcomes: list[tuple[str, str]] = [("", "")] * len(documents)
        labels: dict[int, Label] = {}
        for index, document in enumerate(documents):
            try:
                labels[index] = label_of(document, source)
            except ValueError as error:
                outcomes[index] = ("refused", str(error))
        store = self._store()
        with closing(LogReader(self._home.log)) as reader:
            join = LabelJoin(store, reader, self._class_names)
            if any(label.client_id is not None for label in labels.values()):
                self._index(store, join, INDEX_SECONDS)
            targets = dict(zip(labels, join.targets(list(labels.values())), strict=True))
        kept = [(index, target) for index, target in targets.items() if isinstance(target, Target | str)]
        said = store.add([(labels[index], target) for index, target in kept], time())
        for (index, about), outcome in zip(kept, said, strict=True):
            outcomes[index] = (outcome, about if isinstance(about, str) and outcome == "unmatched" else "")
        for index, target in targets.items():
            if isinstance(target, ValueError):
                outcomes[index] = ("refused", str(target))
        return _counted(outcomes)

    def of(self, prediction: str) -> list[dict[str, Any]]:
        """Return all that was said of a prediction, in the order in which it was; `holds` is what is true by now."""
        return [said_json(one) for one in self._store().of(prediction)] if self._there() else []

    def index_clients(self, seconds: float) -> bool:
        """Read the log for the clients' own ids, for so long at most; return whether the index knows all of it."""
        store = self._store()
        with closing(LogReader(self._home.log)) as reader:
            return self._index(store, LabelJoin(store, reader, self._class_names), seconds)

    def _index(self, store: LabelStore, join: LabelJoin, seconds: float) -> bool:
        if not join.indexed():
            store.move(PLACE, {})
        return self._follow(join, seconds)

    def keep_joining(self, seconds: float) -> bool:
        """Join what waits with what the log has got since, for so long at most; return whether all was looked at."""
        if not self._there():
            return True
        store = self._store()
        with closing(LogReader(self._home.log)) as reader:
            join = LabelJoin(store, reader, self._class_names)
            join.again(time())
            return not join.indexed() or self._follow(join, seconds)

    def _follow(self, join: LabelJoin, seconds: float) -> bool:
        # Two at once would read the same.
        with self._following:
            return join.follow(seconds)

    def forget(self, predictions: Sequence[str]) -> int:
        """Erase all that was said of some predictions; return how many labels it was."""
        return self._store().forget(predictions) if self._there() else 0

    def waiting(self) -> int:
        """Return how many labels have no prediction."""
        return self._store().waiting() if self._there() else 0

    def families(self) -> list[Metric]:
        """Return what Prometheus gets to know; nothing where nothing was ever labelled."""
        if not self._there():
            return []
        served = ["model", "version"]
        labels = CounterMetricFamily("snowgate_labels", "Labels that were joined with a prediction.", labels=served)
        accuracy = GaugeMetricFamily(
            "snowgate_label_accuracy_ratio", "Share of the newest 1,000 labelled rows that were right.", labels=served
        )
        loss = GaugeMetricFamily(
            "snowgate_label_loss", "Mean squared error of the newest 1,000 labelled rows.", labels=served
        )
        rows = GaugeMetricFamily(
            "snowgate_label_rows", "Labelled rows, at most 1,000, that accuracy or loss are of.", labels=served
        )
        for one in self._store().accuracy():
            names = [one["model"], one["version"]]
            labels.add_metric(names, one["labels"])
            rows.add_metric(names, max(one["accuracy_rows"], one["loss_rows"]))
            for family, value in ((accuracy, one["accuracy"]), (loss, one["loss"])):
                if value is not None:
                    family.add_metric(names, value)
        waiting = GaugeMetricFamily("snowgate_labels_unmatched", "Labels without a prediction.")
        waiting.add_metric([], self._store().waiting())
        return [labels, accuracy, loss, rows, waiting]

    def _there(self) -> bool:
        """Whether anybody has labelled anything: who only looks makes no file."""
        return self._opened is not None or (self._home.log / FILE).exists()

    def _store(self) -> LabelStore:
        with self._opening:
            if self._opened is None:
                self._opened = LabelStore(self._home.log)
            return self._opened

    def _class_names(self, digest: str, name: str) -> Sequence[str]:
        found = self._names.get((digest, name))
        if found is None:
            try:
                outputs = open_bundle(self._home.store(), digest).outputs
            except BundleError:
                outputs = ()
            named = [one.labels for one in outputs if one.labels and name in (LABEL, one.name)]
            found = self._names[digest, name] = named[0] if len(named) == 1 else ()
        return found

    def close(self) -> None:
        """Let go of the file."""
        with self._opening:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def label_of(document: Mapping[str, Any], source: str) -> Label:
    """Check one label. Raises ValueError, which names the field, what came and what was expected.

    >>> label_of({"prediction_id": "018bcfe5-687b-774f-8000-000000000000.2", "value": 7}, "ada")
    Label(value=7, prediction='018bcfe5-687b-774f-8000-000000000000', client_id=None, row=2, name='label', time=None, \
source='ada')
    """
    unknown = [name for name in document if name not in FIELDS]
    if unknown:
        raise ValueError(f"{unknown[0][:64]}: unknown, expected {', '.join(FIELDS)}")
    prediction, client_id, row = document.get("prediction_id"), document.get("client_id"), document.get("row")
    if (prediction is None) == (client_id is None):
        raise ValueError("expected either prediction_id or client_id")
    if prediction is not None:
        prediction, row = _prediction(prediction, row)
    else:
        client_id = _text("client_id", client_id, TEXT_CHARACTERS_MAX)
    if row is not None and not (type(row) is int and 0 <= row < ROWS_MAX):
        raise ValueError(f"row: {row!r:.64}, expected a number from 0")
    return Label(
        _value(document.get("value")),
        prediction,
        client_id,
        row,
        _text("name", document.get("name", LABEL), NAME_CHARACTERS_MAX),
        None if document.get("time") is None else _seconds(document["time"]),
        _text("source", document.get("source") or source, NAME_CHARACTERS_MAX),
    )


def _prediction(given: Any, row: Any) -> tuple[str, Any]:
    """Cut `ID.row`, and write the id as the log does."""
    prediction, dot, place = _text("prediction_id", given, TEXT_CHARACTERS_MAX).partition(".")
    if dot and (row is not None or not place.isdecimal()):
        raise ValueError(f"prediction_id: {given!r:.80}, expected ID, or ID.row with a row from 0")
    id_milliseconds(prediction)
    try:
        return str(UUID(prediction)), int(place) if dot else row
    except ValueError:
        raise ValueError(f"prediction_id: {given!r:.80}, expected a UUID, as answers carry it") from None


def _value(value: Any) -> str | int | float | bool:
    if isinstance(value, str):
        return _text("value", value, TEXT_CHARACTERS_MAX)
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError(f"value: {value}, expected a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("value: expected a whole number of at most 64 bits")
    if isinstance(value, int | float):
        return value
    raise ValueError(f"value: {value!r:.64}, expected text, a number, true or false")


def _text(field: str, value: Any, characters_max: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= characters_max or not value.isprintable():
        raise ValueError(f"{field}: {value!r:.64}, expected 1 to {characters_max} printable characters")
    return value


def _seconds(value: Any) -> float:
    """Read a moment: RFC 3339, or seconds since the epoch.

    >>> _seconds("2023-11-14T22:13:20Z"), _seconds(1_700_000_000)
    (1700000000.0, 1700000000.0)
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is not None:
            return moment.timestamp()
    elif type(value) in (int, float) and 0 <= value <= SECONDS_MAX:
        return float(value)
    raise ValueError(f"time: {value!r:.64}, expected such as 2026-11-24T12:00:00Z, or seconds since 1970")


def said_json(said: Said) -> dict[str, Any]:
    """Return a label as `snowgate prediction show` prints it."""
    label, target = said.label, said.target
    return {
        "row": target.row,
        "name": label.name,
        "value": label.value,
        "time": None if label.time is None else rfc3339(label.time),
        "source": label.source,
        "received": rfc3339(said.received),
        "client_id": label.client_id,
        "correct": target.correct,
        "loss": target.loss,
        "holds": said.holds,
    }


def _counted(outcomes: Sequence[tuple[str, str]]) -> dict[str, Any]:
    counts = dict.fromkeys(("accepted", "duplicate", "unmatched", "refused"), 0)
    for outcome, _problem in outcomes:
        counts[outcome] += 1
    problems = [
        {"index": index, "outcome": outcome, "problem": problem}
        for index, (outcome, problem) in enumerate(outcomes)
        if problem
    ]
    return {**counts, "problems": problems}
