"""The sealer's process, the commands on what it made, and what it tells: status, metrics, incident."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from bundles.home import Home
from gateway.admin import create_app
from gateway.cli import main
from gateway.metrics_page import state_families
from gateway.operations import Operations
from gateway.sealer import SealerSettings, Sealing
from monitors.incidents import Incidents
from monitors.log.cursors import Standing, write_standing
from monitors.log.segment import plain_numbers, sealed_numbers
from state.sqlite import SqliteState
from tests.gateway.conftest import serving
from tests.monitors.log.archive import write
from tests.monitors.log.logbook import record

SECONDS_MAX = 60


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a log of closed segments."""
    made = Home(tmp_path / "home").make()
    SqliteState(made.state).close()
    write(made.log, [[record(data=bytes(2_000))] for _ in range(100)])
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command line in this process; return exit code and standard output."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().out


def test_the_process_seals_what_is_closed(home: Home) -> None:
    """Started as control starts it, it compresses everything, says so in live state, and ends when it is told to."""
    settings = json.dumps({"keep_days": 400.0, "max_bytes": None, "console_url": "", "environment": "production"})
    words = ["--home", str(home.path), "--parent", str(os.getpid()), "--settings", settings]
    process = subprocess.Popen([sys.executable, "-m", "gateway.sealer", *words])
    state, deadline = SqliteState(home.state), time.monotonic() + SECONDS_MAX
    try:
        while plain_numbers(home.log, "w0") or (state.get("sealer/status") is None):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        count = len(sealed_numbers(home.log, "w0"))
        while (status := state.get("sealer/status")) is None or status.body["segments"] < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.terminate()
        process.wait(SECONDS_MAX)
    assert process.returncode == 0
    assert (status.body["rows"], status.body["lagging"]) == (100, [])
    samples = {one.name: one.samples[0].value for one in state_families(state) if one.samples}
    assert samples["snowgate_log_sealed_segments"] == count
    state.close()


def test_what_a_follower_lost_is_an_incident_until_it_is_past_it(home: Home) -> None:
    """The byte limit removed what `export` had not read: one incident, a page, and its end when it has gone on."""
    state = SqliteState(home.state)
    write_standing(home.log, "export", Standing(places={"w0": (1, 4096)}))
    sealing = Sealing(home, state, SealerSettings(max_bytes=1))
    while sealing.turn() == 0:
        pass
    (incident,) = Incidents(state, lambda: "").list()
    assert (incident["cause"], incident["state"]) == ("retention", "open")
    assert "before export had read them" in incident["summary"]
    samples = {one.name: one.samples[0].value for one in state_families(state) if one.samples}
    assert (samples["snowgate_log_lagging_followers"], samples["snowgate_log_gap_records"] > 0) == (1, True)
    last = sealed_numbers(home.log, "w0")[-1]
    write_standing(home.log, "export", Standing(places={"w0": (last, 4096)}))
    sealing.turn()
    (incident,) = Incidents(state, lambda: "").list()
    assert incident["state"] == "resolved"
    assert len(state.list("outbox/")) == 2
    state.close()


def test_seal_and_list_on_the_command_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`log seal` says what there is, again and with --rebuild the same; `prediction list` has every form."""
    where = ("--home", str(home.path))
    code, said = run(capsys, "log", "seal", *where, "-o", "json")
    told = json.loads(said)
    assert (code, told["rows"], told["gaps"]) == (0, 100, [])
    assert json.loads(run(capsys, "log", "seal", *where, "--rebuild", "-o", "json")[1]) == told
    listed = ("prediction", "list", *where, "--model", "signs", "--since", "1h", "--limit", "7")
    rows = json.loads(run(capsys, *listed, "-o", "json")[1])
    assert len(rows) == 7
    assert rows[0]["time"] > rows[-1]["time"]
    assert run(capsys, *listed, "-o", "name")[1].split() == [one["id"] for one in rows]
    assert run(capsys, *listed)[1].startswith("ID ")
    lines = run(capsys, *listed, "-o", "csv")[1].splitlines()
    assert (len(lines), lines[0].split(",")[0]) == (8, "id")
    code, _said = run(capsys, *listed, "--where", "nonsense = 1")
    assert code == 1


def test_list_as_parquet_for_a_program(home: Home) -> None:
    """Standard output is a Parquet file with the same rows; a terminal is refused."""
    words = ["prediction", "list", "--home", str(home.path), "--since", "1h", "--limit", "5", "-o", "parquet"]
    done = subprocess.run([sys.executable, "-m", "gateway.cli", *words], capture_output=True, check=True)
    assert pyarrow.parquet.read_table(io.BytesIO(done.stdout)).num_rows == 5


def test_list_from_a_gateway(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`--server` gives what `--home` gives, and refuses a bad condition in the same words."""
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, lambda: ""))
    app = create_app(operations, families=list, ready=lambda: True, allowed_hosts=["127.0.0.1"], key_digests=None)
    with serving(app) as url:
        words = ("prediction", "list", "--since", "1h", "--where", "seq < 3", "-o", "json")
        over = json.loads(run(capsys, *words, "--server", url)[1])
        assert over == json.loads(run(capsys, *words, "--home", str(home.path))[1])
        assert [one["seq"] for one in over] == [2, 1, 0]
        assert run(capsys, "prediction", "list", "--server", url, "--where", "1=1; SELECT 1")[0] == 1
        assert run(capsys, "prediction", "list", "--server", url, "--limit", "10001")[0] == 1
    state.close()
