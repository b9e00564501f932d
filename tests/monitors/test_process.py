"""The monitor as a process, killed again and again: the same decisions, no page twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from monitors.signals import Watching
from monitors.watch import CHECKPOINT, Monitor, MonitorSettings
from state import Change
from tests.conftest import Webhook, wait_until
from tests.monitors.conftest import World, facts, follow


class Process:
    """A real monitor process."""

    def __init__(self, world: World, url: str) -> None:
        settings = f'{{"webhook_url": "{url}", "batch_seconds": 0.5}}'
        arguments = ["--home", str(world.home.path), "--parent", str(os.getpid()), "--settings", settings]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "monitors.watch", *arguments],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        """End it politely."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def test_sigkill_changes_no_decision_and_doubles_no_page(world: World, webhook: Webhook, tmp_path: Path) -> None:
    """A real process, killed again and again while it reads: the incidents are those of a monitor that lived, and the
    receiver gets each event once (a second time only where the kill fell between sending and noting it).
    """
    kills = 0
    monitor = Process(world, webhook.url)
    chance = np.random.default_rng(1)
    for shift in [0.0] * 6 + [0.6] * 6:
        world.time = time.time()
        world.predict("1", 200, rate=1_000, shift=shift)
        time.sleep(float(chance.uniform(0.2, 0.6)))  # The moment of the kill is the experiment.
        if kills < 5 and chance.random() < 0.6:
            monitor.kill()
            kills += 1
            monitor = Process(world, webhook.url)
    wait_until(lambda: webhook.pages, what="the page")
    wait_until(lambda: _processed(world) == world.made, what="the whole log read")
    assert monitor.end() == 0
    assert kills >= 3
    reference = World(tmp_path / "lived")
    reference.version("1")
    before = world.state.get("baselines/signs/1")
    assert before is not None
    reference.state.commit(Change("baselines/signs/1", before.body))
    reference.time = world.time
    reference.home.log.symlink_to(world.home.log)
    lived = Monitor(reference.home, reference.state, MonitorSettings(watching=Watching(batch_seconds=0.5)))
    follow(lived, reference, flush=True)
    assert facts(world) == facts(reference)
    reference.close()
    (incident,) = [one for one in world.incidents() if one["state"] == "open"]
    assert {one["dedup_key"] for one in webhook.pages} == {incident["dedup_key"]}
    assert 1 <= len(webhook.pages) <= 2


def _processed(world: World) -> int:
    document = world.state.get(CHECKPOINT)
    return 0 if document is None else int(document.body["processed"])


def test_the_process_dies_with_its_parent(world: World) -> None:
    """A monitor whose parent is another process than it was told does not begin."""
    done = subprocess.run(
        [sys.executable, "-m", "monitors.watch", "--home", str(world.home.path), "--parent", "1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "parent process 1 is gone" in done.stderr
