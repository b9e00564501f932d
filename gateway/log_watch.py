"""Control's view of the prediction log: what its workers say of it once a second, added up, and told to people.

It holds the two terms of the law that are no counters of a worker's:

    received = answered durable + answered unlogged + refused durable + refused uncounted + in flight (+ abandoned)

In flight are the calls that have no answer yet, or whose record is not on disk yet. When a worker dies, what was in
flight by its last word is abandoned: only the clients and the log know what became of these calls.
"""

import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.runners import Outages
from gateway.settings import LogSettings

log = logging.getLogger("snowgate.control")


class LogWatch:
    """What is known of the log in all workers."""

    def __init__(self, settings: LogSettings, outages: Outages) -> None:
        self._settings = settings
        self._outages = outages
        self._reports: dict[str, dict[str, Any]] = {}
        self._abandoned = 0
        self._owed: str | None = None
        """What people must still be told of a failure, though it may be over."""
        self._told: bool | None = None
        """Whether people were told last that the log fails; None: what an earlier control told is not known."""

    def update(self, worker: str, report: dict[str, Any]) -> None:
        """Take a worker's newest word: `in_flight`, `undurable` (records, age in seconds), `failing` (why, or null)."""
        self._reports[worker] = report
        if report["failing"] is not None and not self._told:
            self._owed = f"{report['failing']} (worker {worker})"
        self._tell()

    def ended(self, worker: str) -> None:
        """A worker has died."""
        self._abandoned += self._reports.pop(worker, {"in_flight": 0})["in_flight"]

    def _tell(self) -> None:
        """Tell what has changed. Live state may lie on the same full disk: what can't be told now is told later."""
        failing = any(one["failing"] is not None for one in self._reports.values())
        try:
            if self._owed is not None:
                self._outages.log_fails(self._owed)
                self._owed, self._told = None, True
            if not failing and self._told is not False:
                self._outages.log_works("every worker can write its log again")
                self._told = False
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the store, it is tried again in a second
            log.warning("an incident about the prediction log can't be written yet: %s", error)

    def families(self) -> Iterable[Metric]:
        """Return the sums over all workers."""
        reports = self._reports.values()
        asynchronous = self._settings.durability == "async"
        gauges = {
            "snowgate_in_flight": (
                "Calls that have no answer yet, or whose record is not on disk yet.",
                sum(one["in_flight"] for one in reports),
            ),
            "snowgate_log_undurable_records": (
                "Calls that were answered and whose record is not on disk yet.",
                sum(one["undurable"][0] for one in reports),
            ),
            "snowgate_log_undurable_seconds": (
                "How long ago the oldest of them was answered.",
                max((one["undurable"][1] for one in reports), default=0.0),
            ),
            "snowgate_log_loss_limit_seconds": (
                "A crash loses what was answered within so long at most; 0 with durability commit.",
                self._settings.loss_seconds if asynchronous else 0.0,
            ),
            "snowgate_log_loss_limit_records": (
                "A crash loses so many records at most; 0 with durability commit.",
                self._settings.loss_records if asynchronous else 0,
            ),
            "snowgate_log_failing_workers": (
                "Workers whose log can't be written now.",
                sum(one["failing"] is not None for one in reports),
            ),
        }
        abandoned = CounterMetricFamily(
            "snowgate_abandoned", "Calls that were in flight by the last word of a worker that died."
        )
        abandoned.add_metric([], self._abandoned)
        return [abandoned, *(GaugeMetricFamily(name, *described) for name, described in gauges.items())]
