"""When did it begin, and what was seen since?

An e-detector says *that* the stream left its reference. For the page a human also wants to know since when, and what
the predictions looked like since then. Each of the detector's bets (tilts) therefore carries Page's cumulative sum
beside its evidence: the log wealth of someone who started betting at the best possible moment. Where that sum falls to
zero, the best moment is now; where it grows, it remembers when it last was zero. The start of the sum of the bet that
dominates is the maximum-likelihood estimate of the change point for that bet.

What was seen since a start is a difference of two running totals, so only the totals at the starts that are still in
use are kept. Bets that begin in the same batch share one copy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

# Under a stationary stream of 10 classes some 40 starts are alive at once. 256 copies of 1,000 classes are 2 MB.
STARTS_MAX = 256


@dataclass(slots=True)
class Start:
    """A moment at which some bet's sum was last zero: its time and the running totals just before it."""

    time: float
    rows: float
    totals: Vector


class Excursions:
    """Start of the current excursion for each of `bets` bets, with totals of `width` numbers since then."""

    def __init__(self, bets: int, width: int) -> None:
        self._sums = np.zeros(bets)
        self._start_of = np.zeros(bets, dtype=np.int64)
        self._starts: dict[int, Start] = {}
        self._batch = 0
        self._rows = 0.0
        self._totals = np.zeros(width)

    def add(self, log_factors: Vector, totals: Vector, rows: int, time: float) -> None:
        """Take one batch: the log factor of each bet, what to add to the totals, and when the batch began."""
        self._batch += 1
        fresh = self._sums <= 0.0
        if fresh.any():
            self._start_of[fresh] = self._batch
            self._starts[self._batch] = Start(time, self._rows, self._totals.copy())
            self._sums[fresh] = 0.0
        self._sums += log_factors
        self._rows += rows
        self._totals += totals
        if len(self._starts) > STARTS_MAX:
            self._forget_unused()

    def since(self, bet: int) -> tuple[float, int, Vector]:
        """(time of the start, rows since, totals since) for one bet; only after at least one `add`."""
        number = int(self._start_of[bet])
        # A start that was thinned out is answered by the next later one: a little less history, never a wrong share.
        start = self._starts[min(key for key in self._starts if key >= number)]
        return start.time, int(self._rows - start.rows), self._totals - start.totals

    def _forget_unused(self) -> None:
        used = set(np.unique(self._start_of).tolist())
        self._starts = {number: start for number, start in self._starts.items() if number in used}
        if len(self._starts) > STARTS_MAX // 2:
            # Rare (very many classes): every other start of the older half goes.
            numbers = sorted(self._starts)
            for number in numbers[: len(numbers) // 2 : 2]:
                del self._starts[number]

    def to_json(self) -> dict[str, Any]:
        """The state as JSON."""
        self._forget_unused()
        return {
            "sums": self._sums.tolist(),
            "start_of": self._start_of.tolist(),
            "starts": {
                str(number): [start.time, start.rows, start.totals.tolist()] for number, start in self._starts.items()
            },
            "batch": self._batch,
            "rows": self._rows,
            "totals": self._totals.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_json` gave."""
        self._sums = np.array(state["sums"], dtype=np.float64)
        self._start_of = np.array(state["start_of"], dtype=np.int64)
        self._starts = {
            int(number): Start(time, rows, np.array(totals, dtype=np.float64))
            for number, (time, rows, totals) in state["starts"].items()
        }
        self._batch = state["batch"]
        self._rows = state["rows"]
        self._totals = np.array(state["totals"], dtype=np.float64)
