"""What can be wrong with the log."""

from pathlib import Path


class LogError(Exception):
    """Anything wrong with the prediction log."""


class LogFull(LogError):
    """More waits for the disk than the limit allows."""


class LogCorrupt(LogError):
    """A frame that was once durable is not what was written; `resume` is the offset of the next good one."""

    def __init__(self, path: Path, writer: str, seq: int, offset: int, kind: str, resume: int | None) -> None:
        super().__init__(
            f"{path}: {kind} at byte {offset} (writer {writer}, seq {seq}); `snowgate log verify` shows all of it"
        )
        self.writer = writer
        self.seq = seq
        self.offset = offset
        self.kind = kind
        self.resume = resume
