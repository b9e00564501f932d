"""Waiting without a task.

A call waits twice: for its batch and for the sync of its record. An asyncio task and two futures for that cost some
15 µs a call, more than the whole rest of the framework's work, and nothing of what they add (cancellation from
outside, context variables, exception groups) is used. So a call is a plain coroutine that awaits a `Step`, and
whoever completes the step resumes the coroutine in the same turn of the event loop.

>>> async def call(step: Step) -> None:
...     print("answer", await step)
>>> step = Step()
>>> start(call(step))
>>> step.complete(42)
answer 42
"""

import logging
from collections.abc import Coroutine, Generator
from typing import Any

log = logging.getLogger("snowgate.predict")


class Step:
    """Something that one coroutine waits for; completed once, on the event loop's thread."""

    __slots__ = ("_coroutine", "_outcome")

    def __init__(self) -> None:
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._outcome: tuple[Any, BaseException | None] | None = None

    def __await__(self) -> Generator["Step", Any, Any]:
        """Give the value, or raise the error, that the step is completed with."""
        if self._outcome is None:
            return (yield self)
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    @property
    def done(self) -> bool:
        """Whether the step was completed."""
        return self._outcome is not None

    def complete(self, value: Any = None, error: BaseException | None = None) -> None:
        """Resume the waiting coroutine with `value`, or raise `error` in it. A second completion does nothing."""
        if self._outcome is not None:
            return
        self._outcome = (value, error)
        if self._coroutine is not None:
            _resume(self._coroutine, value, error)


def start(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` until it waits for a `Step` that is not complete, or ends."""
    _resume(coroutine, None, None)


def _resume(coroutine: Coroutine[Any, Any, None], value: Any, error: BaseException | None) -> None:
    try:
        step = coroutine.send(value) if error is None else coroutine.throw(error)
    except StopIteration:
        return
    except Exception:
        # Whoever completed the step has other calls to complete: one that ends badly must not stop theirs.
        log.exception("a call ended badly")
        return
    step._coroutine = coroutine  # noqa: SLF001 - the two halves of one mechanism
