"""What is asked of the inference table, and the word for what can't be answered."""

from dataclasses import dataclass

from monitors.log.record import Record


class QueryRefused(Exception):
    """The condition is none, it took too long, or it has too much for an answer; the text says which."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: rows of a model, of a time (seconds since the epoch), that meet a condition, newest first."""

    model: str | None = None
    since: float = 0.0
    until: float | None = None
    where: str | None = None
    limit: int = 100

    def takes(self, record: Record) -> bool:
        """Say whether a record is of this model and time; the condition is DuckDB's."""
        early_enough = self.until is None or record.time < self.until
        return self.model in {None, record.model} and record.time >= self.since and early_enough
