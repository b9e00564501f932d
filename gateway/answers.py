"""Control's answers to what its workers ask (see `questions`)."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.channel import Channel
from gateway.operations import OperationError

log = logging.getLogger("snowgate.control")

Answers = Mapping[str, Callable[..., Awaitable[Any]]]
"""What control can be asked: a name, and the coroutine function that answers."""


async def answer(channel: Channel, message: dict[str, Any], answers: Answers) -> None:
    """Answer one question."""
    try:
        body = await answers[message["what"]](**message["arguments"])
    except OperationError as error:
        channel.send({"answer": message["question"], "declined": str(error), "status": error.status})
    except Exception:
        # A worker's client waits for this: it must hear something, whatever went wrong.
        log.exception("the question %r of a worker failed", message["what"])
        sentence = f"{message['what']}: an error of ours; the gateway's own log has the traceback"
        channel.send({"answer": message["question"], "declined": sentence, "status": 500})
    else:
        channel.send({"answer": message["question"], "body": body})
