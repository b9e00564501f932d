from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bundles import inputs
from bundles.errors import RecordingError
from bundles.inputs import declarations, read_by


def entries(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """Return the entries of declared files, by name."""
    declared = declarations([folder / name for name in names])
    return {one["name"]: one for one in read_by({}, declared, folder, [], lambda _text: None)}


def test_rows_are_counted_where_it_is_cheap(tmp_path: Path) -> None:
    """By the header of numpy's and Parquet's files, and by the lines of text; others have none."""
    np.save(tmp_path / "a.npy", np.zeros((7, 3)))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 2)), y=np.zeros(4))
    np.savez(tmp_path / "odd.npz", x=np.zeros((4, 2)), y=np.zeros(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    (tmp_path / "c.tsv").write_text("x\ty\n1\t2\n")
    parquet.write_table(pa.table({"x": [1, 2, 3], "y": [1, 2, 3]}), tmp_path / "d.parquet")
    (tmp_path / "e.bin").write_bytes(b"1")
    found = entries(tmp_path, *(path.name for path in tmp_path.iterdir()))
    counted = {name: (one.get("rows"), one.get("columns")) for name, one in found.items()}
    assert counted == {
        "a.npy": (7, 3),
        "flat.npy": (5, 1),
        "b.npz": (4, 2),
        "odd.npz": (None, None),
        "objects.npz": (2, 1),
        "c.tsv": (1, 2),
        "d.parquet": (3, 2),
        "e.bin": (None, None),
    }


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str) -> None:
    """It is data all the same, with its digest and no rows."""
    (tmp_path / name).write_bytes(b"none of it")
    found = entries(tmp_path, name)[name]
    assert "rows" not in found
    assert found["size"] == 10


def test_too_many_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that lists millions of files helps nobody."""
    monkeypatch.setattr(inputs, "FILES_MAX", 2)
    for name in "abc":
        (tmp_path / name).write_text("")
    with pytest.raises(RecordingError, match="3 data files, expected at most 2; put them into archives"):
        read_by({}, declarations([tmp_path]), tmp_path, [], lambda _text: None)
