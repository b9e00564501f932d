"""A wall clock that is set while a gateway serves: ids tell the time, and stay unique and findable."""

import random
from collections.abc import Callable
from pathlib import Path

from bundles.home import Home
from bundles.packing import Packed
from monitors.log.reader import LogReader
from tests.conftest import Gateway, snowgate
from tests.end_to_end.load import Load
from tests.faults.evidence import Figures, moment, rounds
from tests.faults.test_kills import kill, traffic

Start = Callable[..., Gateway]
SHIFTS = (-3_600, -1, 1, 3_600, 86_400 * 400, -86_400 * 400, -1_790_000_000)
"""Seconds: a step of NTP's, an hour of somebody's, more than a year, and back to about 1970, as without a battery."""


def test_the_clock_is_set(
    home: Home, packed: Packed, start: Start, figures: Figures, preloaded: Callable[[str], Path], tmp_path: Path
) -> None:
    """Set forward and back under load, also while the gateway is down: each id is one record's, and finds it."""
    chance = random.Random(12)
    clock = tmp_path / "clock"
    snowgate(home.path, "deploy", "signs@1")
    variables = {"LD_PRELOAD": str(preloaded("shifted_clock")), "CLOCK_FILE": str(clock)}
    loads = []
    for turn in range(rounds(4)):
        if turn % 8 == 0:
            gateway = start(home.path, variables=variables)
            load = Load(f"{gateway.url}/v2/models/signs/infer")
            loads.append(load)
        traffic(load, 20)
        set_clock(clock, chance.choice(SHIFTS))
        traffic(load, 20)
        moment(chance, 0.1)
        figures.rounds += 1
        if turn % 8 == 7:
            kill(gateway, chance)
            load.stop()
    gateway.stop()
    load.stop()
    figures.check(home.log, loads)
    times = [record.time for record in LogReader(home.log).records()]
    assert max(times) - min(times) > 3_600, "the clock that is meant was set"
    assert snowgate(home.path, "log", "verify")["first_bad"] is None


def set_clock(clock: Path, seconds: int) -> None:
    """Set the clock of all processes that look at this file; they never see half of a number."""
    clock.with_suffix(".new").write_text(str(seconds))
    clock.with_suffix(".new").replace(clock)
