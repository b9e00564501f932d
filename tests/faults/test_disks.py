"""A gateway under load on a disk that fails, is full, is slow, or stands still."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import Packed, pack
from tests.conftest import Gateway, snowgate, wait_until, write_model
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures, moment, rounds
from tests.faults.test_kills import assert_followed, kill, traffic

Start = Callable[..., Gateway]


def refused_more(load: Load, count: int, more: int) -> bool:
    """Say whether so many more calls were refused."""
    return len(load.refused) >= count + more


def conclude(gateway: Gateway, home: Home, load: Load, figures: Figures, start: Start, chance: random.Random) -> None:
    """Kill the gateway under the same load, start another one, and look at everything."""
    traffic(load)
    kill(gateway, chance)
    load.stop()
    assert set(load.statuses) <= {200, 503}
    again = start(home.path)
    figures.check(home.log, [load])
    assert_followed(home)
    assert again.stop() == 0
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


@pytest.mark.parametrize("fault", ["eio", "enospc", "short"])
def test_a_write_or_a_sync_fails(
    home: Home,
    packed: Packed,
    start: Start,
    figures: Figures,
    preloaded: Callable[[str], Path],
    tmp_path: Path,
    fault: str,
) -> None:
    """Again and again a sync fails or a frame is not written whole: its calls get 503, the next ones are answered."""
    chance = random.Random(8)
    order = tmp_path / "order"
    snowgate(home.path, "deploy", "signs@1")
    variables = {"LD_PRELOAD": str(preloaded("failing_disk")), "FAULT_FILE": str(order)}
    gateway = start(home.path, "--workers", "2", variables=variables)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    for _ in range(rounds(2)):
        traffic(load, 10)
        moment(chance, 0.1)
        order.write_text(fault)
        wait_until(lambda: not order.exists(), what="a frame that meets the fault")
        figures.rounds += 1
    # Not each time: a worker that has failed and is called by nobody tries the disk by itself.
    wait_until(lambda: load.refused, what="a call that is refused")
    conclude(gateway, home, load, figures, start, chance)


def test_the_disk_is_slow_and_stands_still(
    home: Home, packed: Packed, start: Start, figures: Figures, preloaded: Callable[[str], Path], tmp_path: Path
) -> None:
    """While no sync ends, nobody is answered; then the gateway is killed, or the disk goes on and all get theirs."""
    chance = random.Random(9)
    order, met = tmp_path / "order", tmp_path / "order.met"
    snowgate(home.path, "deploy", "signs@1")
    variables = {"LD_PRELOAD": str(preloaded("failing_disk")), "FAULT_FILE": str(order)}
    loads = []
    for _ in range(rounds(2)):
        gateway = start(home.path, variables=variables)
        load = Load(f"{gateway.url}/v2/models/signs/infer")
        loads.append(load)
        order.write_text("slow")
        traffic(load)
        met.unlink(missing_ok=True)
        order.write_text("stall")
        wait_until(met.exists, what="a sync that does not end")
        wait_until(lambda: len(load.sent) - len(load.answered) == 4, what="four clients that wait")  # noqa: B023
        answered = len(load.answered)
        if chance.random() < 0.5:
            order.unlink()
            traffic(load)
        else:
            moment(chance)
            kill(gateway, chance)
            order.unlink()
            assert len(load.answered) == answered
        load.stop()
        figures.rounds += 1
        gateway.stop()
    start(home.path)
    figures.check(home.log, loads)
    assert_followed(home)


@pytest.fixture
def traced() -> str:
    """strace, where it may inject faults into a running process."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("not run: no strace; on Debian and Ubuntu: apt-get install strace")
    inject = [program, "-o", os.devnull, "-e", "inject=chdir:error=EIO", "true"]
    if subprocess.run(inject, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: strace may not trace here")
    return program


def test_any_call_to_the_disk_fails(
    home: Home, packed: Packed, start: Start, figures: Figures, traced: str, tmp_path: Path
) -> None:
    """The kernel itself returns errors to a worker: of frames, durable marks, new segments and their syncs alike."""
    chance = random.Random(10)
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    for _ in range(rounds(2)):
        traffic(load, 10)
        (worker,) = gateway.children("gateway.worker")
        call = chance.choice(["fdatasync", "pwrite64", "fsync", "rename"])
        rule = f"{call}:error={chance.choice(['EIO', 'ENOSPC'])}:when={chance.randint(1, 4)}+{chance.randint(2, 5)}"
        # A segment is made after an error only: its calls can fail when another one does.
        rules = [rule] if call in {"fdatasync", "pwrite64"} else [rule, "fdatasync:error=EIO:when=1+2"]
        injections = [word for one in rules for word in ("-e", f"inject={one}")]
        count = len(load.refused)
        tracer = subprocess.Popen([traced, "-f", "-q", "-o", os.devnull, *injections, "-p", str(worker)])
        try:
            wait_until(partial(refused_more, load, count, 5), what=f"calls that are refused: {rules}")
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
        figures.rounds += 1
    conclude(gateway, home, load, figures, start, chance)


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Home]:
    """A home on a file system of its own, of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("not run: mounting a tmpfs is not permitted here; test_log_faults.py has a file size limit")
    yield Home(folder / "home").make()
    # Lazily: when the test fails, its gateway still lives, and a mount must not stay behind.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_file_system_is_full(small_home: Home, start: Start, figures: Figures, tmp_path: Path) -> None:
    """The whole home is on it: calls get 503 while it is full, and are answered again when there is room."""
    chance = random.Random(11)
    pack(small_home, write_model(tmp_path / "model"), model="signs")
    snowgate(small_home.path, "deploy", "signs@1")
    gateway = start(small_home.path)
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    ballast = small_home.path.parent / "ballast"
    for _ in range(min(rounds(2), 20)):
        traffic(load)
        count = len(load.refused)
        fill(ballast, chance.randint(0, 100_000))
        wait_until(partial(refused_more, load, count, 100), what="calls that are refused")
        ballast.unlink()
        traffic(load)
        figures.rounds += 1
    conclude(gateway, small_home, load, figures, start, chance)


def fill(ballast: Path, leave: int) -> None:
    """Fill a file system, all but some bytes."""
    found = os.statvfs(ballast.parent)
    with ballast.open("wb", buffering=0) as file:  # What is in a buffer would fail once more when it is closed.
        try:
            for _ in range(max(found.f_bavail * found.f_frsize - leave, 0) // 4096):
                file.write(bytes(4096))
        except OSError:
            return
