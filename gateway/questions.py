"""What a worker asks of control, over the channel between them: a question with a number, an answer with the same.

Most of what a worker needs control pushes to it. What is left are a client's rare wishes that only control can see to:
which models there are, load one, what all workers have counted together. A refusal travels as control's sentence and
the status that goes with it. Control's end is `answers`.
"""

import asyncio
from itertools import count
from typing import Any

from gateway.channel import Channel
from gateway.errors import Declined, Unavailable

QUESTIONS_MAX = 64
"""Open questions of one worker. They come from operators' tools, and a load may wait for minutes."""
ANSWER_SECONDS = 140.0
"""Longer than control itself waits for anything (`repository.LOAD_SECONDS` and the workers' acknowledgement)."""


class Questions:
    """All open questions of one worker."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, what: str, **arguments: Any) -> Any:
        """Ask control, and return what it answers.

        Raises:
            Declined: control can't, or won't; the sentence and the status are control's.
            Unavailable: too many questions are open, or control does not answer.
        """
        if len(self._open) >= QUESTIONS_MAX:
            raise Unavailable(f"{what}: {QUESTIONS_MAX} such calls are open, no more are taken; try again in a second")
        number = next(self._numbers)
        future = self._open[number] = asyncio.get_running_loop().create_future()
        self._channel.send({"question": number, "what": what, "arguments": arguments})
        try:
            answer = await asyncio.wait_for(future, ANSWER_SECONDS)
        except TimeoutError:
            raise Unavailable(f"{what}: control did not answer within {ANSWER_SECONDS:.0f} s") from None
        finally:
            del self._open[number]
        if "declined" in answer:
            raise Declined(answer["declined"], answer["status"])
        return answer["body"]

    def answered(self, message: dict[str, Any]) -> None:
        """Take one answer; nobody waits any more for one that comes too late."""
        future = self._open.get(message["answer"])
        if future is not None and not future.done():
            future.set_result(message)
