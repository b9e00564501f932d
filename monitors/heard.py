"""What the monitor hears of each record: the eight fields that it follows.

To decode all of a record, and its signals into a dictionary of lists, took a third of the monitor's time. Signals stay
as they are until a batch of them is whole, and then become columns at one stroke.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bundles.runner.rows import alike

NO_SIGNALS = msgspec.Raw(b"\x80")

_decode = msgspec.msgpack.Decoder(dict[str, list[Any]]).decode


class Heard(msgspec.Struct, gc=False):
    """Some of the fields of a `Record`."""

    kind: str
    time: float
    model: str
    version: str | None = None
    bundle: str | None = None
    rows: int = 1
    group: int | None = None
    signals: msgspec.Raw = NO_SIGNALS


class Signals:
    """The signals of a batch of records, by name.

    >>> batch = Signals([{"class": [1, 2]}, {}, {"class": [3]}], [2, 1, 1])
    >>> batch.of("class")
    ([1, 2, 3], [True, False, True])
    """

    def __init__(self, signals: Sequence[msgspec.Raw | Mapping[str, list[Any]]], rows: Sequence[int]) -> None:
        """`rows` says how many each record has. Signals of a checkpoint are dictionaries already."""
        self._rows = rows
        raw = [one for one in signals if isinstance(one, msgspec.Raw)]
        together = alike(raw) if len(raw) == len(signals) == sum(rows) else None
        self._together = None if together is None else {name: values.tolist() for name, values in together.items()}
        self._apart = [unfolded(one) for one in signals] if together is None else []

    def of(self, name: str) -> tuple[list[Any], list[bool] | None]:
        """Return the values of one signal, and which records have it; None: all do."""
        if self._together is not None:
            return self._together.get(name, []), None
        # A record without this signal must not blind us to the others of its batch.
        having = [len(one.get(name, ())) == rows for one, rows in zip(self._apart, self._rows, strict=True)]
        values = [value for one, has in zip(self._apart, having, strict=True) if has for value in one[name]]
        return values, None if all(having) else having


def unfolded(signals: msgspec.Raw | Mapping[str, list[Any]]) -> Mapping[str, list[Any]]:
    """Return signals as a dictionary."""
    return _decode(signals) if isinstance(signals, msgspec.Raw) else signals
