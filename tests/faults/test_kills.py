"""SIGKILL at any moment, under load through HTTP: of the whole gateway, of a worker, of the process that follows."""

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.reader import LogReader
from monitors.log.segment import Segment, numbers, writers
from state.sqlite import SqliteState
from tests.conftest import Gateway, snowgate, wait_until
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures, moment, rounds

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
    for _ in range(rounds(2)):
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


@pytest.mark.parametrize("victim", ["gateway.worker", "monitors.watch"])
def test_kill_9_of_a_child(home: Home, packed: Packed, start: Start, figures: Figures, victim: str) -> None:
    """One process is killed under load, comes back, and then the gateway is killed: at every moment of both."""
    chance = random.Random(6)
    snowgate(home.path, "deploy", "signs@1")
    loads = []
    for _ in range(rounds(1)):
        gateway = start(home.path, "--workers", "2")
        load = Load(f"{gateway.url}/v2/models/signs/infer")
        loads.append(load)
        traffic(load)
        moment(chance)
        before = gateway.children(victim)
        killed = chance.choice(before)
        os.kill(killed, signal.SIGKILL)
        wait_until(partial(_replaced, gateway, victim, before, killed), what=f"another {victim}")
        traffic(load)
        moment(chance)
        kill(gateway, chance)
        load.stop()
        assert set(load.statuses) <= {200, 503}
        figures.rounds += 1
    gateway = start(home.path)
    figures.check(home.log, loads)
    assert_followed(home)
    assert gateway.stop() == 0
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


def _replaced(gateway: Gateway, victim: str, before: list[int], killed: int) -> bool:
    now = gateway.children(victim)
    return killed not in now and len(now) == len(before)


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
