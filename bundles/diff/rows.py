"""The rows of a data file, each by its digest, so that two files can be compared without knowing what they mean.

Read are arrays (`.npz`, `.npy`, `.safetensors`: what has the same length in all of them is a row), tables in text
(`.csv`, `.tsv`: a record; `.jsonl`: a line) and, with the extra `parquet`, `.parquet`. The order of rows is no
difference, and a row that stands twice is two rows.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from bundles.errors import RecipeError
from bundles.recipe import read_arrays

FILE_BYTES_MAX = 512 * 1024 * 1024
"""It is read into memory, with its rows once more: 1 GiB for each of two files that are read one after the other."""
ROWS_MAX = 2_000_000
"""Each takes about 150 bytes in a counter: 300 MB a file."""
DIGEST_BYTES = 16
SUFFIXES = (".npz", ".npy", ".safetensors", ".csv", ".tsv", ".jsonl", ".parquet")


class UnreadableRows(Exception):
    """Why the rows of a file can't be told apart; a sentence's end, such as "is not a table"."""


def count_rows(path: Path, name: str) -> Counter[bytes]:
    """Return how often each row is in a file, by the row's digest; `name` says what kind of file it is.

    Raises:
        UnreadableRows: it is of another kind, too large, or broken.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UnreadableRows(f"no rows are known of a {suffix or 'file without a suffix'}")
    size = _unpacked_bytes(path) if suffix == ".npz" else path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise UnreadableRows(f"{size >> 20} MiB, of at most {FILE_BYTES_MAX >> 20} whose rows are compared")
    try:
        return _counted(_rows(path, suffix))
    except (OSError, ValueError, MemoryError, RecipeError, csv.Error) as error:
        raise UnreadableRows(f"can't be read ({type(error).__name__}: {error})") from error


def _counted(rows: Iterable[bytes]) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for number, row in enumerate(rows):
        if number == ROWS_MAX:
            raise UnreadableRows(f"more than the {ROWS_MAX:,} rows that are compared")
        found[blake2b(row, digest_size=DIGEST_BYTES).digest()] += 1
    return found


def _rows(path: Path, suffix: str) -> Iterator[bytes]:
    if suffix in (".csv", ".tsv"):
        return _records(path, "\t" if suffix == ".tsv" else ",")
    if suffix == ".jsonl":
        return (line.rstrip(b"\r\n") for line in path.read_bytes().splitlines() if line.strip())
    if suffix == ".parquet":
        return _parquet(path)
    return _arrays(path)


def _records(path: Path, delimiter: str) -> Iterator[bytes]:
    """Yield the records of a table in text; a first one in which nothing is a number names the columns."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for number, record in enumerate(csv.reader(file, delimiter=delimiter)):
            if record and (number or any(map(_is_number, record))):
                yield "\x1f".join(record).encode("utf-8", "surrogateescape")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _arrays(path: Path) -> Iterator[bytes]:
    arrays = read_arrays(path)
    lengths = {name: len(array) if array.ndim else None for name, array in sorted(arrays.items())}
    if len(set(lengths.values())) != 1 or None in lengths.values():
        raise UnreadableRows(f"its arrays have other lengths than each other: {lengths}")
    columns = [np.ascontiguousarray(array).reshape(len(array), -1) for _name, array in sorted(arrays.items())]
    return (b"\x1f".join(column[number].tobytes() for column in columns) for number in range(len(columns[0])))


def _unpacked_bytes(path: Path) -> int:
    """Return what an archive says that its arrays take: a small one may hold a lot."""
    try:
        with ZipFile(path) as archive:
            return sum(one.file_size for one in archive.infolist())
    except (OSError, BadZipFile) as error:
        raise UnreadableRows(f"can't be read ({type(error).__name__}: {error})") from error


def _parquet(path: Path) -> Iterator[bytes]:
    try:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - an optional extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise UnreadableRows("needs pyarrow: pip install 'snowgate[parquet]'") from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from (repr(tuple(row.items())).encode() for row in batch.to_pylist())
    except ArrowInvalid as error:
        raise UnreadableRows(f"can't be read ({error})") from error
