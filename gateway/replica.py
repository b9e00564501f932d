"""One replica as a worker sees it: the connection to one runner, and the frames that are in its hands.

A connection that is lost while the runner lives is made again, with a growing pause, until control's table no longer
has the replica. A replica that is to leave takes no more frames, and is let go when it has answered those it has.
"""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from struct import unpack
from time import perf_counter_ns
from typing import Any, Protocol, cast

from bundles.runner import frames

log = logging.getLogger("snowgate.worker")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0


class Holder(Protocol):
    """The queue in front of some replicas."""

    name: str

    def answered(self, replica: "Replica", batch: list[Any], header: dict[str, Any], body: memoryview) -> None:
        """Take the answer to one frame."""
        ...

    def joined(self) -> None:
        """Take note of a replica that was connected."""
        ...

    def free(self) -> None:
        """Give frames to the replicas: one of them can take some."""
        ...

    def lost(self, held: list[Any]) -> None:
        """Take back the calls that were with a replica when its connection ended."""
        ...

    def let_go(self, replica: "Replica") -> None:
        """Take note that nothing of ours will ever be with this replica again."""
        ...


class Replica(asyncio.Protocol):
    """The connection to one runner."""

    def __init__(self, path: str, holder: Holder) -> None:
        self.path = path
        self.pid = 0
        self.in_flight: dict[int, list[Any]] = {}
        self.moved_ns = 0
        """When it last began or ended a frame: if it has some and this is long ago, it hangs."""
        self._holder = holder
        self._decoder = frames.Decoder()
        self._transport: asyncio.Transport | None = None
        self._leaving = False
        self._again: asyncio.Task[None] | None = None

    @property
    def takes(self) -> bool:
        """Whether it can be given frames."""
        return self._transport is not None and not self._leaving

    async def connect(self) -> bool:
        """Connect, or go on trying; return whether it is connected now."""
        if await self._connect():
            return True
        self._again = asyncio.create_task(self._connect_again())
        return False

    async def _connect(self) -> bool:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, self.path)
        except OSError as error:
            log.info("%s: %s", self._holder.name, error)
            return False
        return True

    async def _connect_again(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._leaving:
            await asyncio.sleep(pause)
            if await self._connect():
                return
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def send(self, frame_id: int, batch: list[Any], data: bytes | bytearray) -> None:
        """Give it a frame."""
        if not self.in_flight:
            self.moved_ns = perf_counter_ns()
        self.in_flight[frame_id] = batch
        assert self._transport is not None, "frames are sent only while connected"
        self._transport.write(data)

    def leave(self) -> None:
        """Take no more frames, and go when the last one is answered."""
        self._leaving = True
        if not self.in_flight:
            self.close()

    def close(self) -> None:
        """Let go of the runner; what is with it fails."""
        self._leaving = True
        if self._again is not None:
            self._again.cancel()
        if self._transport is None:
            self._holder.let_go(self)
        else:
            self._transport.close()

    def calls(self) -> Iterator[Any]:
        """Go through the calls that are with it."""
        for batch in self.in_flight.values():
            yield from batch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = unpack("3i", credentials)[0]  # struct ucred: process, user, group
        if self._leaving:
            self._transport.close()
        else:
            self._holder.joined()

    def data_received(self, data: bytes) -> None:
        """Hand on what was answered, frame by frame."""
        self.moved_ns = perf_counter_ns()
        for header, body in self._decoder.feed(data):
            self._holder.answered(self, self.in_flight.pop(header["id"]), header, body)
        if self._leaving and not self.in_flight:
            self.close()
        elif self._transport is not None:
            self._holder.free()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give back the calls that it had, and connect again unless it is to leave."""
        self._transport = None
        self._decoder = frames.Decoder()
        held = list(self.calls())
        self.in_flight.clear()
        self._holder.lost(held)
        if self._leaving:
            self._holder.let_go(self)
            return
        log.info("%s: the connection to a runner was lost: %s", self._holder.name, exc or "it closed it")
        with suppress(RuntimeError):  # The loop is closing: then there is nothing to connect for.
            self._again = asyncio.get_running_loop().create_task(self._connect_again())
