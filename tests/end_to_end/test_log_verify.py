"""What is signed of a real gateway's log, through its life and after its death."""

import shutil
import signal
from collections.abc import Callable

from bundles.home import Home
from bundles.packing import Packed
from gateway.notary import HomeNotary
from monitors.log.contract import Report
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate, wait_until

Start = Callable[..., Gateway]


def verify(home: Home) -> Report:
    """Verify in this process, with the home's key."""
    return LogReader(home.log).verify(HomeNotary(home.keys()))


def covered(home: Home) -> tuple[int, int]:
    """Return how many records there are, and how many of them nobody has signed."""
    report = verify(home)
    assert report.first_bad is None
    assert report.checkpoint is not None
    return report.records, report.checkpoint["records_behind"]


def test_a_gateways_log_is_signed_from_its_start_to_its_end(home: Home, packed: Packed, start: Start) -> None:
    """While it serves, when it was killed and started again, when it has ended: it is known what is covered."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path, variables={"SNOWGATE_LOG__CHECKPOINT_SECONDS": "0.1"})
    for _ in range(5):
        assert gateway.call()[0] == 200
    wait_until(lambda: covered(home) == (5, 0), what="signing")
    metrics = gateway.http.request("GET", gateway.control + "/metrics").data.decode()
    assert "snowgate_log_checkpoint_timestamp_seconds 1." in metrics
    gateway.process.send_signal(signal.SIGKILL)
    gateway.stop()
    assert covered(home) == (5, 0)
    gateway = start(home.path, variables={"SNOWGATE_LOG__CHECKPOINT_SECONDS": "3600"})
    for _ in range(3):
        assert gateway.call()[0] == 200
    assert covered(home) == (8, 3)
    assert gateway.stop() == 0
    assert covered(home) == (8, 0)


def test_no_start_makes_good_what_vanished(home: Home, packed: Packed, start: Start) -> None:
    """A worker's folder is removed while nothing runs; the next gateway writes under its name, and it stays missed."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    assert gateway.call()[0] == 200
    assert gateway.stop() == 0
    shutil.rmtree(home.log / "w0")
    gateway = start(home.path)
    assert [gateway.call()[0] for _ in range(3)] == [200] * 3
    assert gateway.stop() == 0
    assert b"snowgate log verify" in gateway.log.read_bytes()
    bad = verify(home).first_bad
    assert bad is not None
    assert (bad["writer"], bad["seq"], bad["kind"], bad["until_seq"]) == ("w0", 0, "altered", 1)
    assert snowgate(home.path, "log", "verify", status=1)["first_bad"] == bad
