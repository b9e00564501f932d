"""Checkpoints of the prediction log, taken by control every few seconds, on a thread: a slow disk delays only them.

The newest is also kept in live state. So the console knows it, and a log folder that was put back to an older state,
checkpoints and all, is noticed.
"""

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from typing import Any

import apsw

from bundles.errors import BundleError
from bundles.home import Home
from gateway.audit import now
from gateway.notary import HomeNotary
from monitors.log.checkpoints import Head, Taken, heads, take_checkpoint
from monitors.log.errors import LogError
from state import Change, State

log = logging.getLogger("snowgate.control")

KEY = "log/checkpoint"
IDLE_SECONDS = 60.0
"""A log in which nothing happens is signed this often, so that an older checkpoint always means trouble."""


class Checkpoints:
    """Takes checkpoints of one home's log until it is closed: the first at once, the last when all else has ended."""

    def __init__(self, home: Home, state: State, seconds: float) -> None:
        self._home = home
        self._state = state
        self._seconds = seconds
        self._signed: list[Head] | None = None
        self._signed_at = 0.0
        self._said: str | None = None
        self._ending = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Take the last checkpoint, and end. It covers everything when the workers have ended before."""
        self._ending.set()
        await self._task

    async def _run(self) -> None:
        while not self._ending.is_set():
            await self._turn()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._seconds)
        await self._turn()

    async def _turn(self) -> None:
        """Take one where it is time for one. Serving does not hang on it: what fails is tried again."""
        try:
            self._say(await asyncio.to_thread(self._take))
        except (OSError, LogError, BundleError, apsw.Error) as error:
            self._say(f"can't be taken: {error}; it is tried again every {self._seconds:g} s")

    def _take(self) -> str | None:
        found = heads(self._home.log)
        if found == self._signed and monotonic() - self._signed_at < IDLE_SECONDS:
            return self._said
        kept = self._state.get(KEY)
        envelope = None if kept is None else kept.body["envelope"]
        taken = take_checkpoint(self._home.log, HomeNotary(self._home.keys()), now(), kept=envelope)
        self._state.commit(Change(KEY, checkpoint_json(taken)))
        self._signed, self._signed_at = found, monotonic()
        if not taken.lost:
            return None
        first = taken.lost[0]
        return (
            f"writer {first.writer} had reached seq {first.seq}, and that is not on the disk any more; "
            "`snowgate log verify` says what is missing"
        )

    def _say(self, trouble: str | None) -> None:
        """Log a trouble once, and its end."""
        if trouble != self._said:
            if trouble is None:
                log.info("log checkpoint: all is well again")
            else:
                log.error("log checkpoint: %s", trouble)
        self._said = trouble


def checkpoint_json(taken: Taken) -> dict[str, Any]:
    """Return the document of the newest checkpoint: what the console shows of it, and the whole of it."""
    return {
        "time": taken.checkpoint.time,
        "number": taken.checkpoint.number,
        "lost": len(taken.lost),
        "envelope": taken.envelope,
    }
