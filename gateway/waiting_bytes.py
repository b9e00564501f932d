"""What the bodies of all calls that have no answer yet take in one worker, over whichever protocol they came."""

from gateway.errors import Unavailable


class WaitingBytes:
    """A count of bytes with a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Count bytes as waiting. Raises Unavailable: there would be too many, and none of these are counted."""
        if self.held + size > self.limit:
            raise self.refusal()
        self.held += size

    def refusal(self) -> Unavailable:
        """Say that no more are taken."""
        return Unavailable(
            f"body: {self.held} bytes of calls wait in this worker, no more are taken "
            "([server] max_waiting_bytes); try again in a second"
        )

    def release(self, size: int) -> None:
        """Take notice that so many bytes wait no longer."""
        self.held -= size
