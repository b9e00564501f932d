"""`snowgate prediction export`: to a file, to standard output, to a real receiver."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles.home import Home
from gateway.cli import main
from tests.gateway.export.conftest import FINE, EventReceiver
from tests.gateway.test_cli import run
from tests.monitors.log.logbook import Logbook, record


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    """A receiver of one's own."""
    made = EventReceiver()
    yield made
    made.close()


@pytest.fixture
def ids(home: Home) -> list[str]:
    """A log of six records, an hour apart, the newest of now; the third is another model's."""
    (home.path / "state.db").touch()
    book = Logbook(home.log)
    made = [record(now_ns=time.time_ns() - hours * 3_600 * 10**9) for hours in (5, 4, 3, 2, 1, 0)]
    made[2].model = "other"
    found = book.write(made)
    book.close()
    return found


def test_a_file_gets_one_event_a_line(
    capsys: pytest.CaptureFixture[str], home: Home, ids: list[str], tmp_path: Path
) -> None:
    """The chosen records, in the JSON format, and the file is there only when it is whole."""
    target = tmp_path / "out.jsonl"
    chosen = ["--home", str(home.path), "--since", "210m", "--until", "30m", "--model", "signs"]
    code, _out, err = run(capsys, "prediction", "export", *chosen, "--to", str(target))
    assert (code, "2 events" in err) == (0, True)
    events = [json.loads(line) for line in target.read_text().splitlines()]
    assert [one["id"] for one in events] == ids[3:5]
    assert events[0]["data"]["inputs"][0]["data"] == list(range(12))
    assert not list(tmp_path.glob("*.part"))


def test_standard_output_gets_them_in_another_shape(
    capsysbinary: pytest.CaptureFixture[bytes], home: Home, ids: list[str]
) -> None:
    """`--to -` prints, `--format kserve` as KServe's events."""
    with pytest.raises(SystemExit):
        main(["prediction", "export", "--home", str(home.path), "--format", "kserve", "--to", "-"])
    events = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [one["id"] for one in events] == ids
    assert {one["type"] for one in events} == {"org.kubeflow.serving.inference.request"}


def test_a_receiver_gets_them_and_what_it_refuses_is_said(
    capsys: pytest.CaptureFixture[str], home: Home, ids: list[str], receiver: EventReceiver
) -> None:
    """The same ids as the gateway sends; exit code 1 when something was set aside."""
    arguments = ["prediction", "export", "--home", str(home.path), "--to", receiver.url]
    code, _out, err = run(capsys, *arguments)
    assert (code, "6 events arrived, 0 were refused" in err) == (0, True)
    assert sorted(receiver.ids()) == ids
    receiver.answers = lambda events: (422, {}) if events[0].get_id() == ids[0] else FINE
    code, _out, err = run(capsys, *arguments)
    assert (code, "5 events arrived, 1 were refused" in err) == (1, True)


def test_a_time_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], home: Home, ids: list[str]) -> None:
    """The sentence says what was expected."""
    code, _out, err = run(capsys, "prediction", "export", "--home", str(home.path), "--to", "-", "--since", "yesterday")
    assert code == 2
    assert "'yesterday': expected a time such as" in err
