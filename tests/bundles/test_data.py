"""Data files: carried by the bundle, kept in the home, found where they lay, or known to be lost."""

import sys
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bundles.bundle import Bundle, open_bundle
from bundles.data import DataStore, fetch, whereabouts
from bundles.digest import sha256_file
from bundles.errors import DataLost, HomeError
from bundles.home import Home
from bundles.packing import pack
from bundles.recording import record
from tests.bundles.test_recording import COPY
from tests.conftest import snowgate

SMALL, LARGE = b"1,2\n", b"3,4\n" * 1_000


@pytest.fixture
def trained(project: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose run read a small file of the project, which is in it, and a large one from elsewhere."""
    monkeypatch.chdir(project)
    (project / "small.csv").write_bytes(SMALL)
    (tmp_path / "large.csv").write_bytes(LARGE)
    program = "import os, pathlib\nout = pathlib.Path(os.environ['SNOWGATE_OUTPUT'])\n"
    reads = f"open('small.csv').read()\nopen({str(tmp_path / 'large.csv')!r}).read()\n"
    (project / "train.py").write_text(program + reads + COPY)
    out = project / "out"
    record([sys.executable, "train.py"], output=out, carried_bytes_max=100, say=lambda _text: None)
    return open_bundle(home.store(), pack(home, out).digest)


def entries(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """Return the entries of small.csv and large.csv."""
    return {one["name"]: one for one in bundle.run()["data"] if one["name"].endswith(".csv")}


def test_small_data_travels_in_the_bundle(trained: Bundle, home: Home, project: Path) -> None:
    """A file below the limit is a layer of the bundle, and its bytes are there when the file is gone."""
    small, large = entries(trained)["small.csv"], entries(trained)["large.csv"]
    assert (small["in_bundle"], large["in_bundle"]) == (True, False)
    assert trained.file("data/small.csv") == SMALL
    (project / "small.csv").unlink()
    assert whereabouts(trained, small, home.data()) == "in the bundle"
    assert whereabouts(trained, large, home.data()) == "here"


def test_a_lost_file_is_known_to_be_lost(trained: Bundle, home: Home, tmp_path: Path) -> None:
    """Altered and missing are told apart; neither is handed out; a kept copy makes the file's own fate irrelevant."""
    large = entries(trained)["large.csv"]
    (tmp_path / "large.csv").write_bytes(LARGE.replace(b"3", b"5"))
    assert whereabouts(trained, large, home.data()) == "altered"
    (tmp_path / "large.csv").unlink()
    assert whereabouts(trained, large, home.data()) == "missing"
    with pytest.raises(DataLost, match=r"large.csv: its bytes are gone \(missing\).*--from"):
        fetch(trained, large, home.data())
    (tmp_path / "large.csv").write_bytes(LARGE)
    assert fetch(trained, large, home.data()) == "here"
    (tmp_path / "large.csv").unlink()
    assert whereabouts(trained, large, home.data()) == "kept"


def test_a_kept_copy_that_went_bad_is_not_handed_out(home: Home, tmp_path: Path) -> None:
    """One flipped byte, and the copy counts as gone; adding the file again makes it good."""
    kept = home.data()
    (tmp_path / "one").write_bytes(LARGE)
    digest = kept.add(tmp_path / "one")
    found = kept.find(digest)
    assert found is not None
    found.write_bytes(b"9" + LARGE[1:])
    assert kept.find(digest) is None
    assert kept.add(tmp_path / "one") == digest
    assert kept.find(digest) == found


@pytest.mark.parametrize("layout", ["a home", "a folder of names", "a url"])
def test_data_comes_from_elsewhere(trained: Bundle, home: Home, tmp_path: Path, layout: str) -> None:
    """From another home's kept copies by digest, from a folder by name, and through fsspec by a URL."""
    large = entries(trained)["large.csv"]
    other = tmp_path / "other"
    if layout == "a home":
        DataStore(other / "data").add(tmp_path / "large.csv")
    else:
        other.mkdir()
        (other / "large.csv").write_bytes(LARGE)
    (tmp_path / "large.csv").unlink()
    source = other.as_uri() if layout == "a url" else str(other)
    assert fetch(trained, large, home.data(), source) == source
    assert whereabouts(trained, large, home.data()) == "kept"


def test_what_comes_altered_is_refused(trained: Bundle, home: Home, tmp_path: Path) -> None:
    """A place that has another file under the name is named, with both digests, and nothing is left of it."""
    large = entries(trained)["large.csv"]
    (tmp_path / "large.csv").unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "large.csv").write_bytes(LARGE.replace(b"3", b"5"))
    with pytest.raises(DataLost, match=r"large.csv: .*arrived altered"):
        fetch(trained, large, home.data(), str(tmp_path / "other"))
    assert [one.name for one in (home.path / "data" / "sha256").iterdir()] == []


def _add_often(folder: Path, file: Path) -> None:
    for _ in range(50):
        DataStore(folder).add(file)


def test_many_may_keep_the_same_file_at_once(tmp_path: Path) -> None:
    """Four processes add one file again and again: it is there once, whole."""
    file = tmp_path / "file"
    file.write_bytes(LARGE)
    context = get_context("spawn")
    processes = [context.Process(target=_add_often, args=(tmp_path / "data", file)) for _ in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)
    assert [one.exitcode for one in processes] == [0, 0, 0, 0]
    (kept,) = (tmp_path / "data" / "sha256").iterdir()
    assert f"sha256:{kept.name}" == sha256_file(kept)


def test_files_of_one_name_are_told_apart(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one name, from two folders outside of the project, are two entries with two names."""
    monkeypatch.chdir(project)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text(folder)
    given = [tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv"]
    facts = record([sys.executable, "-c", "pass"], output=project / "out", data=given, say=lambda _text: None)
    names = [one["name"] for one in facts["data"]]
    assert names == [f"x.csv-{one['sha256'].removeprefix('sha256:')[:8]}" for one in facts["data"]]
    assert [one["declared"] for one in facts["data"]] == [True, True]


@pytest.mark.parametrize("digest", ["sha256:../../escaped", "sha256:", "../x", "sha256:" + "A" * 64])
def test_what_is_no_digest_becomes_no_path(trained: Bundle, home: Home, tmp_path: Path, digest: str) -> None:
    """A bundle that anybody may have made names a digest that leads elsewhere: nothing is read or written there."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "large.csv").write_bytes(LARGE)
    evil = entries(trained)["large.csv"] | {"sha256": digest}
    assert whereabouts(trained, evil, home.data()) == "altered"
    with pytest.raises(DataLost, match="expected a digest"):
        fetch(trained, evil, home.data(), str(tmp_path / "other"))
    assert sorted(one.name for one in (home.path / "data").iterdir()) == ["sha256"]


def test_a_device_is_no_data(trained: Bundle, home: Home) -> None:
    """A recorded place that never ends is not read: it is no file."""
    evil = entries(trained)["large.csv"] | {"path": "file:///dev/zero", "size": 0}
    assert whereabouts(trained, evil, home.data()) == "missing"


def test_no_file_is_a_sentence(home: Home, tmp_path: Path) -> None:
    """What is not there is named, with what to give."""
    with pytest.raises(HomeError, match="nothing: no such file; give the path of a data file"):
        home.data().add(tmp_path / "nothing")


def test_the_commands_say_where_data_is(trained: Bundle, home: Home, tmp_path: Path) -> None:
    """`check` exits with 1 when bytes are gone; `add` brings them; then it is content."""
    where = {one["name"]: one["where"] for one in snowgate(home.path, "data", "check", trained.digest)}
    assert (where["small.csv"], where["large.csv"]) == ("in the bundle", "here")
    moved = (tmp_path / "large.csv").rename(tmp_path / "elsewhere.csv")
    where = {one["name"]: one["where"] for one in snowgate(home.path, "data", "check", trained.digest, status=1)}
    assert where["large.csv"] == "missing"
    (added,) = snowgate(home.path, "data", "add", str(moved))
    assert added["sha256"] == entries(trained)["large.csv"]["sha256"]
    where = {one["name"]: one["where"] for one in snowgate(home.path, "data", "check", trained.digest)}
    assert where["large.csv"] == "kept"
    fetched = {one["name"]: one["where"] for one in snowgate(home.path, "data", "fetch", trained.digest)}
    assert fetched["large.csv"] == "kept"
