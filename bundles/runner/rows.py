"""Signals as the prediction record carries them: a row is one msgpack map, `{name: [value]}`.

A batch's rows are made here, all at once: but for labels that are text they have one length, so they are a template
written so many times, and a column of numbers put into each field of it. A worker then hands a row on as it is, and
never looks inside: to make a dictionary of a row and a map of that again took it longer than to route the call.

    fields := [[name, kind], …], kind being "f" (float 32), "i" (int 64) or "O" (text)

Source: the msgpack specification (float 32 is 0xca, int 64 0xd3, str 32 0xdb, an array of one 0x91; big-endian).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview
Fields = tuple[tuple[str, str], ...]

MARKS = {"f": b"\x91\xca", "i": b"\x91\xd3", "O": b"\x91\xdb"}
FORMATS = {"f": ">f4", "i": ">i8"}
NATIVE: dict[str, np.dtype[Any]] = {"f": np.dtype(np.float32), "i": np.dtype(np.int64), "O": np.dtype(object)}
TEXT = Struct(">I")
LAYOUTS_MAX = 64
"""A runner has one, or two where a batch was nonsense; a worker those of its versions."""


def packed(measured: Mapping[str, Array], rows: int) -> tuple[Fields, Array]:
    r"""Return the fields and the rows of a batch's signals, each of shape [rows].

    The rows are an array of bytes, [rows, length], or of objects of type bytes, [rows], where a signal is text.

    >>> fields, block = packed({"class": np.array([7]), "energy": np.array([0.5])}, 1)
    >>> fields
    (('class', 'i'), ('energy', 'f'))
    >>> block.tobytes()[-13:]
    b'\xa6energy\x91\xca?\x00\x00\x00'
    """
    fields = tuple((name, _kind(values)) for name, values in measured.items())
    if any(kind == "O" for _name, kind in fields):
        return fields, _with_text(fields, measured, rows)
    dtype, template = _layout(fields)
    block = np.empty((rows, len(template)), dtype=np.uint8)
    block[:] = template
    columns = block.view(dtype)[:, 0]
    for name, values in measured.items():
        columns[name] = values
    return fields, block


def unpacked(fields: Sequence[Sequence[str]], rows: Array) -> dict[str, Array]:
    """Return the columns, each of shape [rows], that `packed` was given: floats as FP32, whole numbers as INT64.

    >>> fields, block = packed({"class": np.array(["snow", "sun"]), "energy": np.array([0.5, 2])}, 2)
    >>> {name: values.tolist() for name, values in unpacked(fields, block).items()}
    {'class': ['snow', 'sun'], 'energy': [0.5, 2.0]}
    """
    known = tuple((name, kind) for name, kind in fields)
    if rows.dtype == object:
        return _columns_with_text(known, rows.tolist())
    dtype, template = _layout(known)
    columns = np.ascontiguousarray(rows).reshape(len(rows), len(template)).view(dtype)[:, 0]
    return {name: columns[name].astype(NATIVE[kind]) for name, kind in known}


def alike(rows: Sequence[Buffer]) -> dict[str, Array] | None:
    r"""Return the columns of rows that came apart, where all have the same fields, of numbers; else None.

    >>> fields, block = packed({"class": np.array([7, 3]), "energy": np.array([0.5, 2])}, 2)
    >>> {name: values.tolist() for name, values in alike([row.tobytes() for row in block]).items()}
    {'class': [7, 3], 'energy': [0.5, 2.0]}
    >>> alike([b"\x80", b"\xa0"]) is None
    True
    """
    joined = b"".join(rows)
    length, rest = divmod(len(joined), len(rows))
    fields = _fields(joined[:length])
    if rest or fields is None:
        return None
    _dtype, template = _layout(fields)
    block = np.frombuffer(joined, dtype=np.uint8).reshape(len(rows), length)
    # The numbers aside, rows of the same fields are the same bytes.
    return unpacked(fields, block) if (block == template)[:, _constant(fields)].all() else None


def _fields(row: bytes) -> Fields | None:
    """Read the fields of a row of numbers; None when it is another map, or none."""
    if row[:1] == b"\xde":
        count, offset = int.from_bytes(row[1:3], "big"), 3
    elif row and 0x80 <= row[0] <= 0x8F:
        count, offset = row[0] & 0x0F, 1
    else:
        return None
    fields = []
    for _ in range(count):
        length = row[offset] & 0x1F if offset < len(row) else 0
        name = row[offset + 1 : offset + 1 + length]
        offset += 1 + length + 2
        kind = {mark: kind for kind, mark in MARKS.items()}.get(row[offset - 2 : offset])
        if kind not in FORMATS:
            return None
        fields.append((name.decode(errors="replace"), kind))
        offset += NATIVE[kind].itemsize
    return tuple(fields) if offset == len(row) and len(dict(fields)) == len(fields) else None


@lru_cache(maxsize=LAYOUTS_MAX)
def _constant(fields: Fields) -> Array:
    """Which bytes of a row are no number's."""
    dtype, template = _layout(fields)
    assert dtype.fields is not None, "made with fields"
    constant = np.ones(len(template), dtype=bool)
    for name, kind in fields:
        offset = dtype.fields[name][1]
        constant[offset : offset + NATIVE[kind].itemsize] = False
    return constant


def _kind(values: Array) -> str:
    kind = values.dtype.kind
    return "f" if kind == "f" else "O" if kind in "OSU" else "i"


@lru_cache(maxsize=LAYOUTS_MAX)
def _layout(fields: Fields) -> tuple[np.dtype[Any], Array]:
    """Where the numbers lie in a row, and the row without them."""
    template, offsets = bytearray(_begin(fields)), []
    for name, kind in fields:
        template += _text(name) + MARKS[kind]
        offsets.append(len(template))
        template += bytes(np.dtype(FORMATS[kind]).itemsize)
    formats = [FORMATS[kind] for _name, kind in fields]
    names = [name for name, _kind in fields]
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": len(template)})
    return dtype, np.frombuffer(bytes(template), dtype=np.uint8)


def _begin(fields: Fields) -> bytes:
    count = len(fields)
    return bytes([0x80 | count]) if count < 16 else b"\xde" + count.to_bytes(2, "big")


def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes([0xA0 | len(raw)]) + raw if len(raw) < 32 else b"\xdb" + TEXT.pack(len(raw)) + raw


def _with_text(fields: Fields, measured: Mapping[str, Array], rows: int) -> Array:
    columns = []
    for name, kind in fields:
        values = measured[name]
        raw = [_raw(one) for one in values] if kind == "O" else [one.tobytes() for one in _big_endian(values, kind)]
        columns.append((_text(name) + MARKS[kind], raw))
    block = np.empty(rows, dtype=object)
    for row in range(rows):
        block[row] = _begin(fields) + b"".join([mark + raw[row] for mark, raw in columns])
    return block


def _big_endian(values: Array, kind: str) -> Array:
    """The bytes of each number, [rows, width]."""
    return np.ascontiguousarray(values, dtype=FORMATS[kind]).view(np.uint8).reshape(len(values), -1)


def _raw(label: object) -> bytes:
    """A label as the model gave it: text, or bytes of which nobody knows that they are text."""
    text = label.decode(errors="replace") if isinstance(label, bytes) else str(label)
    raw = text.encode(errors="replace")
    return TEXT.pack(len(raw)) + raw


def _columns_with_text(fields: Fields, rows: Sequence[bytes]) -> dict[str, Array]:
    begun = len(_begin(fields))
    columns: dict[str, list[Any]] = {name: [] for name, _kind in fields}
    for row in rows:
        offset = begun
        for name, kind in fields:
            offset += len(_text(name)) + len(MARKS[kind])
            if kind == "O":
                length = TEXT.unpack_from(row, offset)[0]
                columns[name].append(row[offset + TEXT.size : offset + TEXT.size + length].decode())
                offset += TEXT.size + length
            else:
                columns[name].append(np.frombuffer(row, FORMATS[kind], 1, offset)[0])
                offset += np.dtype(FORMATS[kind]).itemsize
    return {name: np.array(columns[name], dtype=NATIVE[kind]) for name, kind in fields}
