"""SIGKILL at any moment, under load through HTTP: of the whole gateway, and of each process in and beside it."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow.dataset
import pytest

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.listing import rows
from monitors.log.manifest import Manifest
from monitors.log.question import Question
from monitors.log.reader import LogReader
from monitors.log.segment import Segment, numbers, writers
from state.sqlite import SqliteState
from tests.conftest import Gateway, snowgate, wait_until
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures, moment, rounds
from tests.faults.log_follower import witnessed
from tests.gateway.export.conftest import EventReceiver

FOLLOWER = Path(__file__).with_name("log_follower.py")
ROOT = Path(__file__).parents[2]
VICTIMS = ("gateway.worker", "monitors.watch", "gateway.sealer", "gateway.export.process", "follower")
Start = Callable[..., Gateway]


def traffic(load: Load, more: int = 40) -> None:
    """Wait until so many more calls were answered."""
    count = len(load.answered)
    wait_until(lambda: len(load.answered) > count + more, what="traffic")


def kill(gateway: Gateway, chance: random.Random) -> None:
    """SIGKILL of control, whose children die with it, or of every process in any order; wait until all are gone."""
    children = gateway.children("")
    victims = [gateway.process.pid]
    if chance.random() < 0.5:
        victims += children
        chance.shuffle(victims)
    for one in victims:
        os.kill(one, signal.SIGKILL)
    gateway.process.wait(30)
    # A process that waits for its disk dies when the disk is done.
    wait_until(lambda: not any(map(lives, children)), 120, "the end of all children")


def lives(pid: int) -> bool:
    """Say whether a process is there, and not only as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def tear(folder: Path, chance: random.Random) -> None:
    """Do to what lies behind each durable mark what a write that was not finished may have left: none was answered."""
    for writer in writers(folder):
        with Segment(folder, writer, numbers(folder, writer)[-1]) as segment:
            path, end, size = segment.path, segment.mark().end, segment.path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(chance.randint(end, size))
            size = file.seek(0, os.SEEK_END)
            if size > end and chance.random() < 0.5:
                place = file.seek(chance.randrange(end, size))
                bits = file.read(1)[0] ^ 1 << chance.randrange(8)
                file.seek(place)
                file.write(bytes([bits]))
            elif chance.random() < 0.5:
                file.write(chance.choice([bytes, os.urandom])(chance.randrange(10_000)))


def assert_followed(home: Home) -> None:
    """The monitor has met every record once: what it counted, in one commit with its cursor, is what the log holds."""
    there = sum(1 for _ in LogReader(home.log).records())
    state = SqliteState(home.state)

    def processed() -> int:
        status = state.get("monitor/status")
        return 0 if status is None else int(status.body["processed"])

    wait_until(lambda: processed() >= there, 120, "the monitor's catching up")
    assert processed() == there
    state.close()


def test_kill_9_of_the_gateway(home: Home, packed: Packed, start: Start, figures: Figures) -> None:
    """Killed with two workers under load, at times its log's tails torn and bits flipped in them, and started again."""
    chance = random.Random(5)
    snowgate(home.path, "deploy", "signs@1")
    loads = []
    for _ in range(rounds(1)):
        gateway = start(home.path, "--workers", "2")
        load = Load(f"{gateway.url}/v2/models/signs/infer")
        loads.append(load)
        traffic(load)
        moment(chance)
        kill(gateway, chance)
        load.stop()
        if chance.random() < 0.5:
            tear(home.log, chance)
        figures.rounds += 1
    gateway = start(home.path)
    figures.check(home.log, loads)
    assert_followed(home)
    assert gateway.stop() == 0
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


class Follower:
    """A follower with a name and a cursor of its own, which is started again when it was killed."""

    def __init__(self, home: Home, folder: Path) -> None:
        self._seen = folder / "witnessed"
        self._command = [sys.executable, str(FOLLOWER), str(home.log), str(self._seen)]
        self.start()

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process.poll() is None, "it followed until now"
        self._process.kill()
        self._process.wait(30)

    def seen(self) -> list[str]:
        """Return the ids that it has met behind its cursor."""
        return witnessed(self._seen) if self._seen.exists() else []


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    """A receiver of one's own."""
    made = EventReceiver()
    yield made
    made.close()


@pytest.fixture
def follower(home: Home, tmp_path: Path) -> Iterator[Follower]:
    """A follower that follows."""
    made = Follower(home, tmp_path)
    yield made
    made.kill()


def strike(gateway: Gateway, victim: str, chance: random.Random) -> None:
    """Kill one of the gateway's processes, and wait until another is in its place."""
    before = wait_until(lambda: gateway.children(victim), what=victim)
    killed = chance.choice(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(partial(_replaced, gateway, victim, before, killed), what=f"another {victim}")


def _replaced(gateway: Gateway, victim: str, before: list[int], killed: int) -> bool:
    now = gateway.children(victim)
    return killed not in now and len(now) == len(before)


def assert_sealed(home: Home) -> None:
    """All is sealed, or is by the next sealer: each record is once in Parquet, and once for who asks."""
    with Manifest(home.log) as manifest:
        assert manifest.segments(), "it was sealed while calls were served"
    snowgate(home.path, "log", "seal")
    there = sorted(one.id for one in LogReader(home.log).records())
    listed = rows(home.log, Question(limit=10 * len(there)), 1 << 30)
    assert sorted(one["prediction_id"] for one in listed) == there
    projected = pyarrow.dataset.dataset(home.log / "parquet", partitioning="hive").to_table(["prediction_id"])
    assert sorted(projected.column("prediction_id").to_pylist()) == there


def test_kill_9_of_each_child(
    home: Home, packed: Packed, start: Start, figures: Figures, follower: Follower, receiver: EventReceiver
) -> None:
    """Each process is killed under load and comes back, then the gateway is killed: at any moment of all of them.

    The workers, the monitor, the sealer with a segment every second, the exporter to a real receiver, and a follower
    with a name of its own. Each has done its work on every record in the end: once, but for the exporter, whose
    receiver has each at least once.
    """
    chance = random.Random(6)
    snowgate(home.path, "deploy", "signs@1")
    variables = {"SNOWGATE_EXPORT__URL": receiver.url, "SNOWGATE_LOG__SEGMENT_SECONDS": "1"}
    loads = []
    for _ in range(rounds(1)):
        gateway = start(home.path, "--workers", "2", variables=variables)
        load = Load(f"{gateway.url}/v2/models/signs/infer")
        loads.append(load)
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            traffic(load, 20)
            moment(chance)
            if victim == "follower":
                follower.kill()
                follower.start()
            else:
                strike(gateway, victim, chance)
            figures.rounds += 1
        traffic(load, 20)
        moment(chance)
        kill(gateway, chance)
        load.stop()
        assert set(load.statuses) <= {200, 503}
    gateway = start(home.path, "--workers", "2", variables=variables)
    figures.check(home.log, loads)
    assert_followed(home)
    there = [one.id for one in LogReader(home.log).records()]
    wait_until(lambda: len(follower.seen()) >= len(there), what="the follower's catching up")
    assert sorted(follower.seen()) == sorted(there)
    wait_until(lambda: receiver.arrived >= set(there), 120, "the events")
    assert receiver.arrived == set(there)
    assert gateway.stop() == 0
    assert_sealed(home)
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


def test_two_gateways_on_one_home(home: Home, packed: Packed, start: Start, figures: Figures) -> None:
    """A second one refuses and says who has the home, while the first serves on; their logs do not mix."""
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    for _ in range(rounds(2)):
        traffic(load, 20)
        with pytest.raises(pytest.fail.Exception, match=f"already served by pid {gateway.process.pid}"):
            start(home.path)
        figures.rounds += 1
    traffic(load, 20)
    load.stop()
    assert (load.broken, set(load.statuses)) == (0, {200})
    figures.check(home.log, [load])
    assert_followed(home)
