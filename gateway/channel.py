"""The line between control and a child: one JSON object a line, both ways, over an inherited socket pair.

Control pushes tables down; a child says that it is ready, which table it has applied, and once a second what it has
counted. The line's end is the other side's end, which is how each notices the other's death besides the signal.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import orjson

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A table of 1,000 versions with ten tensors each is some 1 MB."""


class Channel:
    """One end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def open(end: socket.socket) -> "Channel":
        """Wrap one end of a socket pair."""
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=LINE_BYTES_MAX)
        return Channel(reader, writer)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message; nothing happens when the other side is gone, its end is noticed by `messages`."""
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the other side sends until it is gone."""
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return  # It was killed with something of ours unread.
            if not line.endswith(b"\n"):
                return  # The end, or a line that it was killed in.
            yield orjson.loads(line)

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
