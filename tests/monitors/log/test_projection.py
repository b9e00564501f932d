"""The inference table: one row a prediction row, the documented columns, readable with nothing of ours."""

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from bundles.home import Home
from monitors.log.columns import COLUMNS, Columns, column
from monitors.log.forget import Wanted, erase
from monitors.log.manifest import Manifest
from monitors.log.parquet import TYPES, table
from monitors.log.reader import LogReader
from monitors.log.record import Payload, Record, Tensor
from monitors.log.sealer import kept_bundles
from tests.monitors.log.archive import seal_all, sealer, write
from tests.monitors.log.logbook import record

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home."""
    return Home(tmp_path / "home").make()


def batch(
    rows: int,
    model: str = "signs",
    version: str = "1",
    inputs: Sequence[Tensor] = (),
    outputs: Sequence[Tensor] = (),
) -> Record:
    """A record of several rows."""
    made = record()
    made.model, made.version, made.rows, made.bundle = model, version, rows, f"sha256:{version * 64}"
    made.signals = {"class": list(range(rows)), "image.mean": [0.5] * rows}
    made.payload = Payload(unit="camera", parameters={"k": 1}, inputs=list(inputs), outputs=list(outputs))
    return made


def floats(name: str, *shape: int) -> Tensor:
    """A tensor whose elements count up."""
    return Tensor(name, "FP32", list(shape), np.arange(np.prod(shape), dtype="<f4").tobytes())


def texts(name: str, *values: bytes) -> Tensor:
    """A BYTES tensor."""
    return Tensor(name, "BYTES", [len(values)], b"".join(len(one).to_bytes(4, "little") + one for one in values))


def test_a_row_for_each_row_with_its_part_of_each_tensor() -> None:
    """A batch of three is parted; its rows are ID.0 to ID.2, and a single row has the prediction's own id."""
    columns = Columns()
    made = batch(3, inputs=[floats("x", 3, 2)], outputs=[texts("label", b"stop", b"go", b"\xff")])
    columns.add(made)
    single = batch(1, inputs=[floats("x", 1, 2)])
    columns.add(single)
    rows = sorted(columns.rows(), key=lambda row: (row["prediction_id"] != made.id, row["row"]))
    assert [row["id"] for row in rows] == [f"{made.id}.0", f"{made.id}.1", f"{made.id}.2", single.id]
    assert [row["input_x"] for row in rows] == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [0.0, 1.0]]
    assert [row["output_label"] for row in rows] == [["stop"], ["go"], ["data:;base64,/w=="], None]
    assert [row["signal_class"] for row in rows] == [0, 1, 2, 0]
    assert rows[0]["signal_image_mean"] == 0.5
    assert rows[0]["tensors"][0] == {
        "column": "input_x",
        "name": "x",
        "datatype": "FP32",
        "shape": [2],
        "data_ref": None,
        "withheld": None,
    }
    assert (rows[0]["parameters"], rows[0]["unit_hash"]) == ('{"k":1}', "00000000000007")


def test_what_is_no_tensor_of_rows_is_whole_in_the_first_row() -> None:
    """A side input of another first dimension is not repeated; what can't be read or lies elsewhere is null."""
    columns = Columns()
    broken = Tensor("broken", "FP32", [2], b"\0" * 7)
    elsewhere = Tensor("large", "FP32", [2], b"", "sha256:" + "0" * 64)
    columns.add(batch(2, inputs=[floats("side", 3), broken, elsewhere]))
    first, second = columns.rows()
    assert (first["input_side"], second["input_side"]) == ([0.0, 1.0, 2.0], None)
    assert "input_broken" not in first
    assert first["tensors"][2]["data_ref"] == elsewhere.data_ref


def test_names_that_would_be_one_get_numbers() -> None:
    """DuckDB knows no case: two tensors whose columns would be called alike are both there."""
    columns = Columns()
    columns.add(batch(1, inputs=[floats("a.b", 1), floats("A_b", 1)]))
    names = [name for (side, _name), name in columns.names().items() if side == "input"]
    assert names == ["input_A_b", "input_a_b_2"]
    assert column("input", "a.b") == "input_a_b"


def test_datatypes_that_meet_in_a_column_widen() -> None:
    """FP32 beside FP64 is FP64, INT8 beside FP16 a float, and numbers beside text are text."""
    columns = Columns()
    columns.add(batch(1, inputs=[floats("x", 1), Tensor("y", "INT8", [1], b"\x07")], outputs=[floats("z", 1)]))
    half = Tensor("y", "FP16", [1], np.array([0.5], "<f2").tobytes())
    wide = Tensor("x", "FP64", [1], np.array([2.0]).tobytes())
    columns.add(batch(1, inputs=[wide, half], outputs=[texts("z", b"a")]))
    made = table(columns)
    assert made.schema.field("input_x").type == pa.list_(pa.float64())
    assert made.schema.field("input_y").type == pa.list_(pa.float32())
    assert sorted(made.column("output_z").to_pylist()) == [["0.0"], ["a"]]


def test_parquet_is_read_by_others_without_our_code(home: Home) -> None:
    """DuckDB and pyarrow, given the folder: every row once, the documented types, models and days as folders."""
    ids = write(home.log, [[batch(3, inputs=[floats("x", 3, 2)]), batch(1, "speed", "2")] for _ in range(60)])
    assert seal_all(sealer(home)) > 1
    glob = f"{home.log}/parquet/**/*.parquet"
    counts = "count(*), count(DISTINCT id), count(DISTINCT prediction_id)"
    asked = f"SELECT {counts} FROM read_parquet($1, union_by_name=true)"  # noqa: S608 - ours
    assert duckdb.execute(asked, [glob]).fetchall() == [(240, 240, len(ids))]
    asked = "SELECT DISTINCT model, typeof(date) FROM read_parquet($1, union_by_name=true) ORDER BY model"
    assert duckdb.execute(asked, [glob]).fetchall() == [("signs", "DATE"), ("speed", "DATE")]
    read = pyarrow.dataset.dataset(home.log / "parquet", partitioning="hive").to_table()
    assert read.num_rows == 240
    for name, (kind, _meaning) in COLUMNS.items():
        if name not in {"model", "date"}:
            assert read.schema.field(name).type.equals(TYPES[kind]), name
    assert isinstance(read.column("time")[0].as_py(), dt.datetime)


def test_rows_of_a_file_are_sorted_by_prediction(home: Home) -> None:
    """Readers skip by the statistics of row groups, and ids tell the time."""
    write(home.log, [[record() for _ in range(50)]])
    seal_all(sealer(home))
    with Manifest(home.log) as manifest:
        (file,) = manifest.files("w0", 1)
    found = pyarrow.parquet.read_table(home.log / "parquet" / file.path, partitioning=None).column("prediction_id")
    assert found.to_pylist() == sorted(found.to_pylist())


def test_sealing_again_changes_nothing_and_rebuilding_makes_the_same(home: Home) -> None:
    """The same files with the same rows, whether the projection is there, is gone, or has strangers in it."""
    write(home.log, [[record()] * 1 for _ in range(40)])
    work = sealer(home)
    seal_all(work)
    with Manifest(home.log) as manifest:
        before = (manifest.totals(), manifest.paths())
    for path in (home.log / "parquet").rglob("*.parquet"):
        path.unlink()
    stranger = home.log / "parquet" / "model=signs" / "date=2020-01-01" / "w9-0000000001.parquet"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"half")
    assert seal_all(work) == 0
    assert not stranger.exists()
    list(work.rebuild())
    with Manifest(home.log) as manifest:
        assert (manifest.totals(), manifest.paths()) == before
    files = (home.log / "parquet").rglob("*.parquet")
    assert {str(one.relative_to(home.log / "parquet")) for one in files} == before[1]


def test_without_the_extra_segments_are_sealed_and_projected_later(home: Home) -> None:
    """A sealer without Parquet compresses; one that has it makes the files of all that is there."""
    ids = write(home.log, [[record()] for _ in range(30)])
    count = seal_all(sealer(home, with_parquet=False))
    with Manifest(home.log) as manifest:
        assert (manifest.totals()["segments"], manifest.totals()["files"]) == (count, 0)
    assert seal_all(sealer(home)) == count
    with Manifest(home.log) as manifest:
        assert manifest.totals()["rows"] == len(ids)


def test_what_is_erased_leaves_parquet_before_the_segment(home: Home) -> None:
    """After forgetting no file has the payload; the sealer makes the files anew, with the row and without it."""
    marked = record(data=b"find me in here")
    write(home.log, [[marked, record()]])
    work = sealer(home)
    seal_all(work)
    erase(home.log, Wanted(ids=frozenset({marked.id})), lambda _ids: None)
    assert list((home.log / "parquet").rglob("*.parquet")) == []
    assert seal_all(work) == 1
    asked = "SELECT input_x, payload_state FROM read_parquet($1) WHERE prediction_id = $2"
    found = duckdb.execute(asked, [f"{home.log}/parquet/**/*.parquet", marked.id]).fetchall()
    assert found == [(None, "erased")]


def test_bundles_that_records_name_are_known(home: Home) -> None:
    """Of sealed and of open segments; refusals without a bundle name none."""
    write(home.log, [[batch(1, version="1")]])
    seal_all(sealer(home))
    write(home.log, [[batch(1, version="2")]], name="w1")
    assert kept_bundles(home.log) == {f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"}


def test_the_columns_are_documented() -> None:
    """docs/log.md has a line for each column, with its type and meaning."""
    lines = (ROOT / "docs" / "log.md").read_text().splitlines()
    rows = {found[1]: line for line in lines if (found := re.match(r"\| `(\w+)` \|", line))}
    for name, (kind, meaning) in COLUMNS.items():
        assert rows[name] == f"| `{name}` | {kind} | {meaning} |"


def test_a_look_up_needs_no_manifest(home: Home) -> None:
    """Without it, or with a damaged one, every segment is looked at."""
    ids = write(home.log, [[record()] for _ in range(30)])
    seal_all(sealer(home))
    (home.log / "manifest.db").write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    found = LogReader(home.log).find(ids[3])
    assert found is not None
    assert found.seq == 3
