"""Erasures: signed notes of which payloads were erased, in the file `erasures` beside the writers.

The chain covers a payload by its digest only, so that it can be erased; anybody who can write the file could do that,
and it would look like `snowgate log forget`. So that one says it first: a payload that is gone without a signed note is
an altered one. A note names predictions by their ids, which the headers keep anyway: some 50 bytes each, for ever.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from monitors.log.errors import CheckpointUntrusted
from monitors.log.signed import Notary, append_line, line_of, locked, open_envelope, read_lines

FILE = "erasures"
PAYLOAD_TYPE = "application/vnd.snowgate.log-erasures+json"
IDS_MAX = 1_000
"""Of one line: 52 KB."""


class Erasure(msgspec.Struct, frozen=True):
    """What is signed: whose payloads may be gone, and when that was said (RFC 3339)."""

    time: str
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Erasures:
    """All that was noted: the ids, and what is wrong with the notes, by their line (from 1)."""

    ids: set[str] = field(default_factory=set)
    faults: dict[int, str] = field(default_factory=dict)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Erasure).decode


def note_erasures(directory: Path, notary: Notary, time: str, ids: Sequence[str]) -> None:
    """Note, durably, that the payloads of these predictions are about to be erased. Raises OSError."""
    with locked(directory):
        for part in _parts(ids):
            envelope = notary.sign(_encode(Erasure(time, list(part))), PAYLOAD_TYPE)
            append_line(directory / FILE, line_of(envelope))


def read_erasures(directory: Path, notary: Notary | None) -> Erasures:
    """Read all notes that count; without a notary no signature is checked."""
    found = Erasures()
    for position, line in enumerate(read_lines(directory / FILE), 1):
        try:
            payload, _key = open_envelope(line, PAYLOAD_TYPE, notary)
            found.ids.update(_decode(payload).ids)
        except (CheckpointUntrusted, msgspec.MsgspecError) as error:
            found.faults[position] = str(error)
    return found


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), IDS_MAX):
        yield ids[start : start + IDS_MAX]
