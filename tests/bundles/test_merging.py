import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.errors import MergeConflict, RecordingError
from bundles.merging import merge_code, merge_inputs, three_way, with_options
from bundles.recording import options_of

NAMES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3))


def run(command: str, data: dict[str, str] | None = None, **beside: str) -> dict[str, Any]:
    """Return what a run's record says of what it was given."""
    words = command.split()
    files = [{"name": name, "place": name, "sha256": digest} for name, digest in (data or {}).items()]
    return {"command": words, "parameters": options_of(words) | beside, "data": files}


def archive(**files: str) -> bytes:
    """Return a source archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{name}.py")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@given(base=NAMES, ours=NAMES, theirs=NAMES)
def test_a_merge_takes_what_one_side_changed(
    base: dict[str, int], ours: dict[str, int], theirs: dict[str, int]
) -> None:
    """By name: what only one side changed is taken from there, and only what both changed apart is a conflict."""
    merged, conflicts = three_way(base, ours, theirs)
    for name in "abcd":
        was, mine, other = base.get(name), ours.get(name), theirs.get(name)
        if name in conflicts:
            assert len({was, mine, other}) == 3
        else:
            assert merged.get(name) == (other if mine == was else mine)
    assert three_way(base, theirs, ours) == (merged, conflicts) or sorted(conflicts) == sorted(
        three_way(base, theirs, ours)[1]
    )


def test_parameters_and_data_are_merged() -> None:
    """A changed seed here, a new option and a new file there: the command line has both, and so has the data."""
    base = run("python train.py --seed 1 --width=8", {"a.csv": "1", "b.csv": "1"}, note="x")
    ours = run("python train.py --seed 2 --width=8", {"a.csv": "1", "b.csv": "2"}, note="x")
    theirs = run("python train.py --seed 1 --width=16 --fast", {"a.csv": "1", "b.csv": "1", "c.csv": "1"}, note="y")
    found = merge_inputs(base, ours, theirs)
    assert found.command == ["python", "train.py", "--seed", "2", "--width=16", "--fast"]
    assert found.parameters == {"note": "y"}
    assert {place: one["sha256"] for place, one in found.data.items()} == {"a.csv": "1", "b.csv": "2", "c.csv": "1"}


def test_what_was_taken_away_stays_away() -> None:
    """An option and a file that one side dropped are not brought back by the other, which left them as they were."""
    base = run("python train.py --seed 1 --fast", {"a.csv": "1", "b.csv": "1"})
    ours = run("python train.py --seed 1", {"a.csv": "1"})
    found = merge_inputs(base, ours, run("python train.py --seed 3 --fast", {"a.csv": "1", "b.csv": "1"}))
    assert found.command == ["python", "train.py", "--seed", "3"]
    assert list(found.data) == ["a.csv"]


def test_every_conflict_is_named() -> None:
    """Nothing is chosen for people: each thing that both sides changed is in the error, with both values."""
    base = run("python train.py --seed 1", {"a.csv": "1"})
    ours, theirs = run("python fit.py --seed 2", {"a.csv": "2"}), run("python go.py --seed 3", {"a.csv": "3"})
    with pytest.raises(MergeConflict) as caught:
        merge_inputs(base, ours, theirs)
    assert caught.value.conflicts == [
        "parameter seed: 2 here, 3 there",
        "data a.csv: changed on both sides",
        "command: python fit.py here, python go.py there",
    ]


def test_another_script_on_one_side_is_taken() -> None:
    """The words beside the options come from the side that changed them."""
    base = run("python train.py --seed 1")
    theirs = run("python fit.py --seed 1")
    for first, second in ((base, theirs), (theirs, base)):
        assert merge_inputs(base, first, second).command == ["python", "fit.py", "--seed", "1"]


def test_options_keep_their_form() -> None:
    """`--a=b` stays one word, a flag stays a flag, and what stands beside the options stays where it is."""
    words = ["run", "--a=1", "--fast", "file", "--b", "2", "-x", "--c"]
    assert with_options(words, options_of(words)) == words
    assert with_options(words, {"a": "3", "d": "true"}) == ["run", "--a=3", "-x", "--d"]


def test_code_is_merged_by_git(tmp_path: Path) -> None:
    """Changes in other files and in other lines of one file come together; a removed file is removed."""
    lines = "".join(f"line {number}\n" for number in range(10))
    base = archive(one=lines, two="a\n", gone="x\n")
    ours = archive(one=lines.replace("line 1\n", "ours\n"), two="a\n", gone="x\n")
    theirs = archive(one=lines.replace("line 8\n", "theirs\n"), two="b\n")
    merge_code(tmp_path, base, ours, theirs)
    expected = lines.replace("line 1\n", "ours\n").replace("line 8\n", "theirs\n")
    assert (tmp_path / "one.py").read_text() == expected
    assert (tmp_path / "two.py").read_text() == "b\n"
    assert not (tmp_path / "gone.py").exists()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, check=True)
    assert status.stdout == b""


def test_a_conflict_in_the_code_names_the_file(tmp_path: Path) -> None:
    """Two different changes of one line are for people."""
    with pytest.raises(MergeConflict, match=r"1 conflicts: code one\.py: changed on both sides in the same place"):
        merge_code(tmp_path, archive(one="a\n"), archive(one="b\n"), archive(one="c\n"))


def test_an_archive_that_leads_out_is_refused(tmp_path: Path) -> None:
    """A path that would write elsewhere is an error, and nothing is written there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../outside.py"))
    (tmp_path / "in").mkdir()
    with pytest.raises(RecordingError, match="can't be unpacked"):
        merge_code(tmp_path / "in", buffer.getvalue(), archive(), archive())
    assert not (tmp_path / "outside.py").exists()
