"""Training data: where the bytes behind a digest are, and a place to keep them.

A bundle names each data file of its run by digest, size and where it lay. Small ones it carries itself, as `data/NAME`.
Copies of the others are kept under their digests in `HOME/data/`, when somebody asks for it; one that has gone bad is
never handed out. So "the data is lost" is known before anything is run, and is told apart from "the result differs".
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from bundles.blobs import Blobs
from bundles.bundle import DATA_PREFIX, Bundle
from bundles.digest import CHUNK_BYTES, sha256_file
from bundles.errors import CorruptBundle, DataLost, HomeError, RecordingError
from bundles.manifest import DATASET_TYPE, Descriptor, is_digest

IN_BUNDLE, KEPT, IN_PLACE = "in the bundle", "kept", "here"
FOUND = (IN_BUNDLE, KEPT, IN_PLACE)
"""Carried by the bundle, kept in this home, or where the run read it."""
CARRIED_FILE_BYTES_MAX = 8 * 1024 * 1024
CARRIED_BYTES_MAX = 64 * 1024 * 1024
"""What a bundle carries of its data by default: 8 files of 8 MiB. A registry takes that as it takes weights."""
Entry = Mapping[str, Any]


class DataStore:
    """Data files under their digests, whole or not at all. Safe for several processes."""

    def __init__(self, path: Path) -> None:
        """Make the folder when it is not there. Raises HomeError."""
        try:
            self._blobs = Blobs(path / "sha256", path / "lock")
        except OSError as error:
            raise HomeError(f"{path}: can't be made: {error.strerror}; give another folder with --home") from error

    def add(self, path: Path) -> str:
        """Keep a copy of a file and return its digest.

        Raises:
            HomeError: there is no such file, or it can't be written.
            CorruptBundle: it was written to while it was copied.
        """
        if not path.is_file():
            raise HomeError(f"{path}: no such file; give the path of a data file")
        return self._blobs.add(path, DATASET_TYPE, str(path)).digest

    def receive(self, entry: Entry, chunks: Iterator[bytes]) -> None:
        """Keep a file of a known digest that comes in pieces. Raises CorruptBundle when it is not that file."""
        if not is_digest(entry["sha256"]):
            raise CorruptBundle(entry["name"], f"is named by {entry['sha256']!r}, expected a digest")
        self._blobs.receive(Descriptor(DATASET_TYPE, entry["sha256"], entry["size"], entry["name"]), chunks)

    def find(self, digest: str) -> Path | None:
        """Return the file of a digest, checked; None when it is not here, has gone bad, or `digest` is none."""
        # It becomes a file's name, and comes from a bundle that anybody may have made.
        if not is_digest(digest):
            return None
        path = self._blobs.path(digest)
        try:
            return path if sha256_file(path) == digest else None
        except OSError:
            return None


def carry(entries: Sequence[dict[str, Any]], folder: Path, file_max: int) -> list[dict[str, Any]]:
    """Copy what a bundle shall carry of a run's data beside what was recorded; returns the entries, by unique names.

    The smallest come first, each of up to `file_max` bytes, as many as fit; `in_bundle` says which. Files of one name
    from several places have the beginning of their digest in it. Raises RecordingError when one changed meanwhile.
    """
    names = Counter(one["name"] for one in entries)
    left = CARRIED_BYTES_MAX
    for one in sorted(entries, key=lambda one: int(one["size"])):
        if names[one["name"]] > 1:
            one["name"] += f"-{one['sha256'].removeprefix('sha256:')[:8]}"
        one["in_bundle"] = one["size"] <= min(file_max, left)
        if one["in_bundle"]:
            left -= one["size"]
            copy = carried_file(folder, one)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(_path(one), copy)
            if sha256_file(copy) != one["sha256"]:
                raise RecordingError(f"{one['name']}: changed while it was recorded; nobody may write to it then")
    return list(entries)


def carried_file(folder: Path, entry: Entry) -> Path:
    """Return where the recorder put a data file that the bundle shall carry."""
    return folder / "data" / str(entry["sha256"]).removeprefix("sha256:")


def carried(bundle: Bundle, entry: Entry) -> bytes | None:
    """Return a data file's bytes out of the bundle; None when it does not carry them, or they have gone bad."""
    layer = bundle.manifest.files().get(DATA_PREFIX + entry["name"])
    if layer is None or layer.digest != entry["sha256"]:
        return None
    try:
        return bundle.store.read(layer)
    except CorruptBundle:
        return None


def whereabouts(bundle: Bundle, entry: Entry, kept: DataStore) -> str:
    """Say where the bytes of a data file of a bundle's run are, every one of them checked.

    One of FOUND, else they are gone: `altered` or `missing` where the run read them, or `elsewhere` when that was no
    file of a machine.
    """
    if carried(bundle, entry) is not None:
        return IN_BUNDLE
    if kept.find(entry["sha256"]) is not None:
        return KEPT
    return _in_place(entry)


def fetch(bundle: Bundle, entry: Entry, kept: DataStore, source: str | None = None) -> str:
    """Keep a copy of a data file of a bundle's run in this home; returns where it was brought from.

    That is one of FOUND; or `source`, a home, a folder with the files under their names, or a URL of either that fsspec
    understands. What arrives is checked.

    Raises:
        DataLost: they are nowhere, or what came has another digest.
    """
    if kept.find(entry["sha256"]) is not None:
        return KEPT
    data = carried(bundle, entry)
    if data is not None:
        kept.receive(entry, iter([data]))
        return IN_BUNDLE
    place = _in_place(entry)
    if place == IN_PLACE:
        kept.add(_path(entry))
        return IN_PLACE
    if source is None:
        raise DataLost(f"{entry['name']}: its bytes are gone ({place}); if another place has them: --from PLACE")
    _receive(entry, kept, source)
    return source


def keep(entries: Iterable[Entry], kept: DataStore) -> None:
    """Keep copies of the data files of a run that has just ended. Raises RecordingError when one was written to."""
    for one in entries:
        if kept.add(_path(one)) != one["sha256"]:
            raise RecordingError(f"{one['name']}: changed after it was recorded; nobody may write to it then")


def _receive(entry: Entry, kept: DataStore, source: str) -> None:
    """Bring a file from a place that may hold it under its digest, as homes do, or under its name."""
    hexadecimal = entry["sha256"].removeprefix("sha256:")
    tried = []
    for name in (f"data/sha256/{hexadecimal}", f"bundles/blobs/sha256/{hexadecimal}", hexadecimal, entry["name"]):
        try:
            with _open(f"{source.rstrip('/')}/{name}") as file:
                kept.receive(entry, iter(lambda: file.read(CHUNK_BYTES), b""))
                return
        except FileNotFoundError:
            continue
        except (CorruptBundle, OSError, ValueError) as error:
            tried.append(f"{name}: {error}")
    raise DataLost(f"{entry['name']}: not at {source} ({'; '.join(tried) or 'neither by its digest nor by its name'})")


def _open(place: str) -> AbstractContextManager[IO[bytes]]:
    if "://" not in place:
        return Path(place).open("rb")
    try:
        import fsspec  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise HomeError(f"{place}: a URL needs fsspec: pip install 'snowgate[remote]'") from error
    opened: AbstractContextManager[IO[bytes]] = fsspec.open(place, "rb")
    return opened


def recorded_path(entry: Entry) -> Path | None:
    """Return where the run read a file, if that was a file of some machine."""
    url = urlsplit(entry.get("path") or "")
    return Path(unquote(url.path)) if url.scheme == "file" and not url.netloc else None


def is_it(path: Path, entry: Entry) -> bool:
    """Say whether a file is there and has an entry's bytes.

    The size comes first: a large file that is another one by now need not be read. A device never ends, and is none.
    """
    try:
        return path.is_file() and path.stat().st_size == entry["size"] and sha256_file(path) == entry["sha256"]
    except OSError:
        return False


def _path(entry: Entry) -> Path:
    path = recorded_path(entry)
    assert path is not None, "a run of this machine read files"
    return path


def _in_place(entry: Entry) -> str:
    path = recorded_path(entry)
    if path is None:
        return "elsewhere"
    if is_it(path, entry):
        return IN_PLACE
    return "altered" if path.is_file() else "missing"
