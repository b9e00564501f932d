import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monitors.log.label_join import LabelJoin, RowOutOfRange
from monitors.log.labels import FILE, Label, LabelStore, Target, hashed
from monitors.log.reader import LogReader
from monitors.log.record import Payload, Record, new_id
from tests.conftest import wait_until
from tests.monitors.log.logbook import Logbook, flip, record

SAID_AND_KILLED = """
import sys
from pathlib import Path
from monitors.log.labels import Label, LabelStore, Target

store = LabelStore(Path(sys.argv[1]))
number = 0
while True:
    label = Label(number, prediction="p", row=0, source="killed")
    if store.add([(label, Target("p", 0, "signs", "1"))], 1.0) == ["accepted"]:
        print(number, flush=True)
    number += 1
"""


def target(prediction: str = "p", row: int | None = 0, **judged: bool | float) -> Target:
    """A prediction of signs version 1."""
    return Target(prediction, row, "signs", "1", **judged)  # type: ignore[arg-type]


def say(store: LabelStore, value: object, source: str = "ada", time: float | None = None, now: float = 5.0) -> str:
    """Say something of row 0 of prediction p."""
    label = Label(value, prediction="p", row=0, time=time, source=source)  # type: ignore[arg-type]
    return store.add([(label, target())], now)[0]


def test_what_was_said_before_is_kept_and_the_last_word_holds(tmp_path: Path) -> None:
    """A correction does not erase: who said what and when stays, in order, and one of them holds."""
    store = LabelStore(tmp_path)
    assert [say(store, 7), say(store, 3, "grace", 4.0), say(store, 7)] == ["accepted", "accepted", "duplicate"]
    history = [(one.label.value, one.label.source, one.label.time, one.holds) for one in store.of("p")]
    assert history == [(7, "ada", 5.0, False), (3, "grace", 4.0, True)]
    store.close()


def test_the_same_label_twice_is_one(tmp_path: Path) -> None:
    """A file that is sent again changes nothing, with times or without; who goes back to a former word may."""
    store = LabelStore(tmp_path)
    assert [say(store, 7, time=1.0), say(store, 3, time=2.0)] == ["accepted", "accepted"]
    assert [say(store, 7, time=1.0), say(store, 3, time=2.0)] == ["duplicate", "duplicate"]
    assert [say(store, 7), say(store, 7)] == ["accepted", "duplicate"]
    assert [one.holds for one in store.of("p")] == [False, False, True]
    store.close()
    assert [one.label.value for one in LabelStore(tmp_path).of("p")] == [7, 3, 7]


def test_columns_have_what_holds(tmp_path: Path) -> None:
    """The inference table's side: text, time and source of what holds, a part at a time."""
    store = LabelStore(tmp_path)
    texts = {7: "7", 0.5: "0.5", 'snow "and" ice': 'snow "and" ice', True: "true"}
    for value, text in texts.items():
        say(store, value, source=f"by {value}")
        [part] = store.current()
        assert part["label"] == [text]
    store.add([(Label(1, source="x"), target("q", None, correct=True))], 6.0)
    parts = list(store.current(rows=1))
    assert [part["prediction_id"] for part in parts] == [["p"], ["q"]]
    assert [part["label"] for part in parts] == [["true"], ["1"]]
    assert parts[1] == {
        "prediction_id": ["q"],
        "row": [None],
        "label_name": ["label"],
        "label": ["1"],
        "label_time": [6.0],
        "label_source": ["x"],
        "correct": [True],
        "loss": [None],
    }
    store.close()


def test_columns_begin_at_a_moment(tmp_path: Path) -> None:
    """Labels of predictions from a moment on, by the time in their ids."""
    store = LabelStore(tmp_path)
    ids = [new_id(int(second * 1e9)) for second in (100, 200, 300)]
    for one in ids:
        store.add([(Label(1, source="x"), target(one))], 1.0)
    assert [part["prediction_id"] for part in store.current(since=200)] == [ids[1:]]
    store.close()


def test_accuracy_is_of_the_last_words(tmp_path: Path) -> None:
    """A corrected label counts once, with what holds; the count of labels has all that were said."""
    store = LabelStore(tmp_path)
    for number in range(4):
        store.add([(Label(1, source="x"), target(f"p{number}", correct=number > 0))], 1.0)
    store.add([(Label(2, source="x"), target("p1", correct=False))], 2.0)
    [found] = store.accuracy()
    assert (found["labels"], found["accuracy"], found["accuracy_rows"], found["loss"]) == (5, 0.5, 4, None)
    store.close()


def test_a_follower_sees_each_label_once(tmp_path: Path) -> None:
    """Numbers grow in the order in which labels are joined, so one that waited comes to a follower that is past it."""
    store = LabelStore(tmp_path)
    waits = Label(9, client_id="order-7", source="x")
    assert store.add([(waits, "unknown"), (Label(1, source="x"), target())], 1.0) == ["unmatched", "accepted"]
    [first] = store.read(0)
    assert store.read(first.number) == []
    store.join([(waits, target("q"), 1.0)])
    [second] = store.read(first.number)
    assert (second.label.value, second.target.prediction, store.waiting()) == (9, "q", 0)
    store.close()


def test_what_is_forgotten_is_not_in_the_file(tmp_path: Path) -> None:
    """All that was said of a prediction is erased, joined or not, and so are its bytes."""
    store = LabelStore(tmp_path)
    say(store, "a secret of somebody")
    store.add([(Label("kept", source="x"), target("q"))], 1.0)
    store.add([(Label("a secret of another", client_id="order-7", source="x"), "unknown")], 1.0)
    store.move("clients", {}, [(hashed("order-7"), "p"), (hashed("order-7"), "q")])
    assert store.forget(["p"]) == 2
    assert store.by_client("order-7") == ["q"]
    assert (store.of("p"), store.waiting(), len(store.of("q"))) == ([], 0, 1)
    store.close()
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    """A process that is killed while it writes loses none of the labels that it was told are kept."""
    command = [sys.executable, "-c", SAID_AND_KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait(10)
    process.stdout.close()
    acknowledged = [int(line) for line in lines if line.endswith("\n")]
    store = LabelStore(tmp_path)
    assert {*acknowledged} <= {one.label.value for one in store.of("p")}
    assert say(store, "on it goes") == "accepted"
    store.close()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """A command beside a running gateway: both write, and all of both is there."""
    command = [sys.executable, "-c", SAID_AND_KILLED, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    store = LabelStore(tmp_path)
    assert [say(store, number, source="here") for number in range(50)] == ["accepted"] * 50
    process.kill()
    process.wait(10)
    process.stdout.close()
    assert sum(one.label.source == "here" for one in store.of("p")) == 50
    assert any(one.label.source == "killed" for one in store.of("p"))
    store.close()


def named(client_id: str, **fields: object) -> Record:
    """A record with the client's own id."""
    one = record()
    one.payload = Payload(client_id=client_id)
    for name, value in fields.items():
        setattr(one, name, value)
    return one


@pytest.fixture
def logbook(tmp_path: Path) -> Logbook:
    """A log to write."""
    return Logbook(tmp_path)


def join(folder: Path) -> tuple[LabelStore, LabelJoin]:
    """A store and what joins it with the log."""
    store = LabelStore(folder)
    return store, LabelJoin(store, LogReader(folder), lambda _digest, _name: ["no", "a", "b", "snow"])


def test_a_label_finds_its_row(logbook: Logbook, tmp_path: Path) -> None:
    """By id, by row, as a whole; a row too many is said, and a prediction of elsewhere is not found."""
    several = record()
    several.rows, several.signals = 2, {"class": [3, 1]}
    one, two = logbook.write([record(), several])
    logbook.close()
    _store, work = join(tmp_path)
    stranger = new_id(10**18)
    labels = [
        Label("snow", prediction=one),
        Label(3, prediction=two, row=1),
        Label(3, prediction=two),
        Label(3, prediction=two, row=2),
        Label(3, prediction=stranger),
    ]
    first, second, whole, over, nobody = work.targets(labels)
    assert first == Target(one, 0, "signs", "1", correct=True)
    assert second == Target(two, 1, "signs", "1", correct=False, rows=2)
    assert whole == Target(two, None, "signs", "1", rows=2)
    assert isinstance(over, RowOutOfRange)
    assert stranger in str(nobody)


def test_many_labels_are_found_by_one_walk(logbook: Logbook, tmp_path: Path) -> None:
    """More labels than are looked up one by one find the same predictions."""
    ids = logbook.write([record() for _ in range(200)])
    logbook.close()
    _store, work = join(tmp_path)
    found = work.targets([Label(3, prediction=one) for one in reversed(ids)])
    assert [one.prediction for one in found if isinstance(one, Target)] == ids[::-1]


def test_a_clients_id_leads_to_its_prediction(logbook: Logbook, tmp_path: Path) -> None:
    """The index knows answered predictions; a client's id that two have is refused with both named."""
    alone, refused, first, second = logbook.write(
        [named("a"), named("a", kind="refused"), named("twice"), named("twice")]
    )
    store, work = join(tmp_path)
    assert not work.indexed()
    store.move("clients", {})
    assert work.follow(30)
    found, ambiguous, unknown = work.targets([Label(3, client_id=one) for one in ("a", "twice", "never")])
    assert isinstance(found, Target)
    assert (found.prediction, found.correct) == (alone, True)
    assert refused not in store.by_client("a")
    assert "2 predictions" in str(ambiguous)
    assert first in str(ambiguous)
    assert second in str(ambiguous)
    assert "no prediction" in str(unknown)
    logbook.close()


def test_a_label_that_comes_first_is_joined_when_its_prediction_does(logbook: Logbook, tmp_path: Path) -> None:
    """What waits is joined as the log grows, with the time when it had come."""
    logbook.write([named("before")])
    store, work = join(tmp_path)
    store.move("clients", {})
    label = Label(3, client_id="late", source="x")
    assert store.add([(label, "unknown")], 100.0) == ["unmatched"]
    assert work.follow(30)
    assert store.waiting() == 1
    [late] = logbook.write([named("late")])
    assert work.follow(30)
    [said] = store.of(late)
    assert (said.received, said.label.client_id, said.target.correct, store.waiting()) == (100.0, "late", True, 0)
    logbook.close()


def test_a_prediction_that_comes_late_is_joined(logbook: Logbook, tmp_path: Path) -> None:
    """A label by an id that is not in the log yet is tried again while its prediction is young."""
    late, old = record(), record(now_ns=10**18)
    store, work = join(tmp_path)
    labels = [Label(3, prediction=one.id, source="x") for one in (late, old)]
    assert store.add([(one, "not yet") for one in labels], late.time) == ["unmatched"] * 2
    logbook.write([late, old])
    work.again(late.time + 1)
    assert (len(store.of(late.id)), store.waiting()) == (1, 1)
    logbook.close()


def test_damage_does_not_stop_the_index(logbook: Logbook, tmp_path: Path) -> None:
    """Behind a payload that was altered the log is read on; labels of what can't be read wait."""
    for name in ("first", "second", "third"):
        logbook.write([named(name)])
    logbook.close()
    raw = logbook.path().read_bytes()
    flip(logbook.path(), raw.index(b"second"))
    store, work = join(tmp_path)
    store.move("clients", {})
    wait_until(lambda: work.follow(5), what="the whole log")
    assert [len(store.by_client(name)) for name in ("first", "second", "third")] == [1, 0, 1]


def test_the_log_does_not_take_the_labels_for_a_writer(logbook: Logbook, tmp_path: Path) -> None:
    """Labels beside the segments disturb neither reading nor verification."""
    ids = logbook.write([record()])
    logbook.close()
    LabelStore(tmp_path).close()
    assert (tmp_path / FILE).exists()
    report = LogReader(tmp_path).verify()
    assert (report.records, report.first_bad) == (len(ids), None)
