"""What can be wrong with the log, and whose fault it is.

LogError
├── LogFull      the disk is behind: try again later
├── LogBusy      another process writes under this name: start it once
├── LogCorrupt   what was once durable is not what was written: somebody has to look
└── CheckpointUntrusted    nobody whose signature counts here has signed this checkpoint
RecordUnwritable (an OSError, as the writer hands errors on)    this one record can't be encoded
"""

from pathlib import Path


class LogError(Exception):
    """Anything wrong with the prediction log."""


class LogFull(LogError):
    """More waits for the disk than the limit allows."""


class LogBusy(LogError):
    """A writer's name is in use by a living process."""


class LogCorrupt(LogError):
    """Durable records are damaged or missing.

    Attributes:
        writer, seq: whose records, and the number of the first one that can't be read.
        path, offset: the segment, and where in it.
        kind: in two or three words.
        resume: where a follower may go on, as (segment number, offset); `LogReader.skip` makes it a cursor.
    """

    def __init__(
        self, path: Path, writer: str, seq: int, offset: int, kind: str, resume: tuple[int, int] | None = None
    ) -> None:
        super().__init__(
            f"{path}: {kind} at byte {offset} (writer {writer}, seq {seq}); `snowgate log verify` shows what else"
        )
        self.path = path
        self.writer = writer
        self.seq = seq
        self.offset = offset
        self.kind = kind
        self.resume = resume


class CheckpointUntrusted(LogError):
    """A checkpoint that nobody whose signature counts here has signed, or that is not what was signed."""


class RecordUnwritable(OSError):
    """This record has something in it that has no place in msgpack; the others of its batch are written."""
