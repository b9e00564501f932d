"""The data of a recorded run, by digest: whoever has the bytes will do, and nothing else.

Looked for in the bundle itself, its code included, in the home's store, where the run read it, and in the place that
was named. A file that has the name but not the digest is not it.
"""

from pathlib import Path
from typing import Any

from bundles.bundle import Bundle
from bundles.data import DataStore, fetch, is_it, recorded_path
from bundles.errors import DataLost


def locate(
    bundle: Bundle, data: list[dict[str, Any]], code: Path, kept: DataStore, source: str | None, scratch: Path
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Find every file of a run's data; return where each is, by name, and the entries of those that are lost.

    `code` is where the run was started in the unpacked code, `source` a place as `snowgate data fetch` has it; what
    comes from there, or out of the bundle, goes into `scratch`.

    Raises:
        CorruptBundle: a file of the bundle is not what its digest says.
    """
    layers = {one.digest: one for one in bundle.manifest.layers}
    brought = DataStore(scratch)
    found: dict[str, Path] = {}
    lost: list[dict[str, Any]] = []
    for number, one in enumerate(data):
        known = [code / one["place"], kept.find(one["sha256"]), recorded_path(one)]
        place = next((path for path in known if path is not None and is_it(path, one)), None)
        if place is None and one["sha256"] in layers:
            place = scratch / str(number)
            bundle.store.copy(layers[one["sha256"]], place)
        if place is None:
            try:
                fetch(bundle, one, brought, source)
            except DataLost:
                lost.append(one)
                continue
            place = brought.find(one["sha256"])
        assert place is not None, "what was fetched has been checked"
        found[one["name"]] = place
    return found, lost
