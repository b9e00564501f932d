"""The streams of all versions that get predictions, each made when its first record comes."""

import logging
from collections.abc import Mapping
from typing import Any

from bundles.baseline import Baseline
from bundles.errors import BundleError
from bundles.home import Home
from monitors import baselines
from monitors.heard import Heard
from monitors.signals import Watching
from monitors.streams import SECONDS_A_DAY, Stream
from state import State

log = logging.getLogger("snowgate.monitor")

FORGET_SECONDS = SECONDS_A_DAY
"""A version without a prediction for so long (in record time) no longer takes its share of the promise, nor memory."""


class Versions:
    """All streams of a home."""

    def __init__(self, home: Home, state: State, watching: Watching) -> None:
        self._home = home
        self._state = state
        self._watching = watching
        self._streams: dict[tuple[str, str], Stream] = {}
        self.unreadable: dict[tuple[str, str], str] = {}

    def of(self, model: str) -> list[Stream]:
        """Return the streams of a model."""
        return [stream for (name, _version), stream in self._streams.items() if name == model]

    def all(self) -> list[Stream]:
        """Return all streams."""
        return list(self._streams.values())

    def get(self, model: str, version: str) -> Stream | None:
        """Return the stream of a version that had predictions, or None."""
        return self._streams.get((model, version))

    def take(self, record: Heard) -> Stream | None:
        """Return the stream that a record belongs to; None when it belongs to none, or its version can't be watched."""
        if record.kind != "answered" or record.version is None or record.bundle is None:
            return None
        found = self._streams.get((record.model, record.version))
        return found or self._make(record.model, record.version, record.bundle)

    def _make(self, model: str, version: str, bundle: str) -> Stream | None:
        if (model, version) in self.unreadable:
            return None
        try:
            baseline = baselines.baseline_of(self._state, self._home, model, version, bundle)
        except (BundleError, KeyError, ValueError, OSError) as error:
            # One version that can't be read must not end the watching of the others. The status says it.
            self.unreadable[model, version] = str(error)
            log.warning("%s version %s can't be watched: %s", model, version, error)
            return None
        stream = self._streams[model, version] = Stream(model, version, bundle, baseline, self._watching)
        self._divide()
        return stream

    def restart(self, model: str, fresh: Mapping[str, Baseline]) -> None:
        """Begin anew with all versions of a model, those in `fresh` against a new baseline."""
        for stream in self.of(model):
            stream.restart(fresh.get(stream.version, stream.baseline))
        self._divide()

    def forget_idle(self, newest: float) -> None:
        """Let go of versions that had no prediction for a day before `newest` (record time)."""
        idle = [key for key, stream in self._streams.items() if stream.heard < newest - FORGET_SECONDS]
        for key in idle:
            # What waits in its batch is a day old too, and was flushed long ago.
            del self._streams[key]
        if idle:
            self._divide()

    def _divide(self) -> None:
        for stream in self._streams.values():
            stream.set_limits(len(self._streams))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the state of all streams for the checkpoint."""
        return [
            {"model": stream.model, "version": stream.version, **stream.to_json()} for stream in self._streams.values()
        ]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Go on from a checkpoint."""
        for one in saved:
            stream = self._make(one["model"], one["version"], one["bundle"])
            if stream is None:
                continue
            try:
                stream.restore(one)
            except ValueError as error:
                log.warning("%s version %s begins anew: %s", one["model"], one["version"], error)
        self._divide()
