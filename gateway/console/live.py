"""Live pages: the changing part of a page, sent again whenever it differs, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

from starlette.concurrency import run_in_threadpool

STREAMS_MAX = 64
"""A browser keeps one a tab. Those of one page share one drawing a second, some 10 ms, however many they are."""
PERIOD_SECONDS = 1.0
SILENCE_TURNS = 15
"""After so many turns without news something is sent all the same: so a server notices who has left."""


class Live:
    """All open streams of one server."""

    def __init__(self) -> None:
        self._open = 0
        self._ended = asyncio.Event()
        self._drawn: dict[str, tuple[float, str]] = {}

    @property
    def full(self) -> bool:
        """Whether no further stream is taken."""
        return self._open >= STREAMS_MAX

    def end(self) -> None:
        """End all streams now; a browser comes back by itself, to whoever serves then."""
        self._ended.set()

    async def follow(self, page: str, draw: Callable[[], str]) -> AsyncIterator[str]:
        """Give the events of one stream: `draw` is called on a thread and gives the page's changing part."""
        self._open += 1
        try:
            last, silent = "", 0
            while not self._ended.is_set():
                html = await self._draw(page, draw)
                silent += 1
                if html != last:
                    last, silent = html, 0
                    yield event(html)
                elif silent >= SILENCE_TURNS:
                    silent = 0
                    yield ": still here\n\n"
                try:
                    await asyncio.wait_for(self._ended.wait(), PERIOD_SECONDS)
                except TimeoutError:
                    continue
        finally:
            self._open -= 1
            if not self._open:
                self._drawn.clear()

    async def _draw(self, page: str, draw: Callable[[], str]) -> str:
        drawn, html = self._drawn.get(page, (0.0, ""))
        if monotonic() - drawn > PERIOD_SECONDS / 2:
            html = await run_in_threadpool(draw)
            self._drawn[page] = (monotonic(), html)
        return html


def event(html: str) -> str:
    r"""Write one event of the stream.

    >>> event("<p>\nsnow</p>")
    'event: part\ndata: <p>\ndata: snow</p>\n\n'
    """
    lines = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: part\n{lines}\n"
