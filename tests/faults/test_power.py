"""A power cut: what was not synced is gone.

The home lies on an ext4 file system, in an image on an XFS file system that can clone files. At the moment of the cut
the gateway is stopped and the image is cloned; the clone holds what the file system had given to its disk by then, and
nothing of what was only in memory. Mounting it is the reboot. What a disk's own cache loses is not in this picture.
"""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundles.home import Home
from bundles.packing import pack
from monitors.log.errors import LogCorrupt
from monitors.log.recovery import recover_all
from tests.conftest import Gateway, snowgate, wait_until, write_model
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures, moment, rounds
from tests.faults.test_kills import traffic

Start = Callable[..., Gateway]
OUTER_BYTES = 1 << 30  # sparse: a clone shares what it has with the image
INNER_BYTES = 256 << 20
NEEDED = ("mkfs.xfs", "mkfs.ext4", "mount", "umount", "cp")


class Disk:
    """A file system whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.outer, self.path, self.after = folder / "outer", folder / "disk", folder / "after"
        self._image = self.outer / "image"

    def make(self, folder: Path) -> None:
        """Make both file systems and mount them. Raises CalledProcessError."""
        for place in (self.outer, self.path, self.after):
            place.mkdir()
        image(folder / "outer.image", OUTER_BYTES, "mkfs.xfs", "-q", "-m", "reflink=1")
        mount(folder / "outer.image", self.outer)
        image(self._image, INNER_BYTES, "mkfs.ext4", "-q")
        mount(self._image, self.path)

    def cut(self) -> Path:
        """Clone the disk as it is without what is only in memory; return the clone."""
        clone = self.outer / "clone"
        run("cp", "--reflink=always", str(self._image), str(clone))
        return clone

    @contextmanager
    def rebooted(self, clone: Path) -> Iterator[Path]:
        """Mount a clone, which repairs it from its journal."""
        mount(clone, self.after)
        try:
            yield self.after
        finally:
            run("umount", str(self.after))
            clone.unlink()

    def remove(self) -> None:
        """Unmount everything. Lazily: when a test fails its gateway still lives."""
        for place in (self.after, self.path, self.outer):
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)


def run(*command: str) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run(command, capture_output=True, check=True, timeout=60)


def image(path: Path, size: int, *command: str) -> None:
    """Make a file system in a sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    run(*command, str(path))


def mount(file: Path, place: Path) -> None:
    """Mount a file system that lies in a file."""
    run("mount", "-o", "loop", str(file), str(place))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk, where this user may have one."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not run: no {', '.join(missing)}; on Debian and Ubuntu: apt-get install xfsprogs e2fsprogs")
    made = Disk(tmp_path)
    try:
        made.make(tmp_path)
    except subprocess.CalledProcessError as error:
        made.remove()
        pytest.skip(
            f"not run: {error.cmd[0]}: {error.stderr.decode().strip()}; a power cut needs root and loop devices"
        )
    yield made
    made.remove()


def cut_power(disk: Disk, gateway: Gateway, load: Load) -> tuple[Path, dict[str, str]]:
    """Stop every process of a gateway, clone its disk, and let them go on; return the clone and who was answered."""
    stopped = [gateway.process.pid, *gateway.children("")]
    for one in stopped:
        os.kill(one, signal.SIGSTOP)
    wait_until(lambda: all(map(is_stopped, stopped)), what="the stop of all processes")
    clone = disk.cut()
    answered = dict(load.answered)
    for one in stopped:
        os.kill(one, signal.SIGCONT)
    return clone, answered


def is_stopped(pid: int) -> bool:
    """Say whether a process has stopped: one that is in a sync ends it first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def serve(disk: Disk, start: Start, model: Path, **variables: str) -> Gateway:
    """Serve a model from a home on the disk."""
    home = Home(disk.path / "home").make()
    pack(home, write_model(model), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    return start(home.path, "--workers", "2", variables=variables)


def test_a_power_cut_loses_nothing(disk: Disk, start: Start, figures: Figures, tmp_path: Path) -> None:
    """Cut under load, again and again: all that was answered before is on the disk, and a gateway starts from it."""
    chance = random.Random(13)
    gateway = serve(disk, start, tmp_path / "model")
    loads: list[Load] = []
    answered: dict[str, str] = {}
    for turn in range(rounds(3)):
        load = Load(f"{gateway.url}/v2/models/signs/infer")
        loads.append(load)
        traffic(load)
        moment(chance)
        clone, now = cut_power(disk, gateway, load)
        load.stop()
        assert set(load.statuses) == {200}
        with disk.rebooted(clone) as after:
            log = after / "home" / "log"
            if turn == 0:
                again = start(after / "home")
                assert again.get("/readyz")[0] == 200
                assert again.stop() == 0
            assert recover_all(log) == []
            figures.check(log, loads, answered | now)
            assert snowgate(after / "home", "log", "verify")["first_bad"] is None
        answered |= load.answered
        figures.rounds += 1
    assert gateway.stop() == 0


def test_without_syncs_a_power_cut_loses(
    disk: Disk, start: Start, preloaded: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same test finds what a gateway loses whose syncs do nothing: it can fail."""
    order = tmp_path / "order"
    order.write_text("nosync")
    library = str(preloaded("failing_disk"))
    gateway = serve(disk, start, tmp_path / "model", LD_PRELOAD=library, FAULT_FILE=str(order))
    load = Load(f"{gateway.url}/v2/models/signs/infer")
    traffic(load, 200)
    clone, answered = cut_power(disk, gateway, load)
    load.stop()
    gateway.stop()
    with disk.rebooted(clone) as after:
        recover_all(after / "home" / "log")
        # Segments are empty or gone; which of both is up to the file system.
        with pytest.raises((AssertionError, LogCorrupt)):
            Figures().check_ids(after / "home" / "log", list(answered))
