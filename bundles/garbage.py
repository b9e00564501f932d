"""What lies in a home and nothing refers to.

These are environments of bundles that are gone, what a dead gateway unpacked, and blobs that no manifest names, which a
crashed pack or pull has left. A bundle in the store is never garbage, whether a ref names it or not: the prediction log
may lead back to it.

Safe beside a running gateway and beside those who pack and pull: an environment is removed under its lock, and only if
no bundle in the store names it then; so are blobs; what is younger than a day stays, because a bundle may just be made
with it; what a gateway unpacks is its own as long as it lives.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundles.bundle import open_bundle
from bundles.errors import HomeError
from bundles.home import Home


@dataclass(frozen=True, slots=True)
class Garbage:
    """A folder or file that nothing refers to: `environment`, `unpacked` or `blob`."""

    path: Path
    kind: str
    size_bytes: int


def collect(home: Home, *, remove: bool) -> Iterator[Garbage]:
    """Find what nothing refers to, and remove it if told to; yield each when that is done.

    Raises:
        CorruptBundle: a bundle can't be read, so that nobody can say which environment it names.
    """
    environments = home.environments()
    for path in environments.unused(lambda: _locks(home)):
        found = Garbage(path, "environment", _size(path))
        if not remove or environments.remove(path, lambda: _locks(home)):
            yield found
    for path, size in home.store().sweep(remove=remove):
        yield Garbage(path, "blob", size)
    try:
        lock = home.lock()
    except HomeError:
        return  # It is served: what is unpacked is in use, and its gateway cleans up after itself.
    with lock:
        for path in sorted(home.run.glob("*")):
            found = Garbage(path, "unpacked", _size(path))
            if remove:
                shutil.rmtree(path, ignore_errors=True)
            yield found


def _locks(home: Home) -> list[str]:
    store = home.store()
    return [lock for digest in store.list() if (lock := open_bundle(store, digest).serving_lock) is not None]


def _size(path: Path) -> int:
    """Return what a folder takes on the disk; links to an interpreter elsewhere are not followed."""
    files = [Path(place) / name for place, _folders, names in os.walk(path) for name in names]
    return sum(one.lstat().st_blocks * 512 for one in files)
