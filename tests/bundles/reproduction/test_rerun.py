"""A recorded run laid out again: code, data and words of the command line at their new places."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bundles.errors import ReproductionError
from bundles.recording import FOLDER, record
from bundles.reproduction.rerun import command_of, lay_out, run_here, unpack

SCRIPT = """
import os, pathlib, sys
words = [pathlib.Path(sys.argv[1]).read_text(), pathlib.Path("../shared/b.txt").read_text()]
words.append(pathlib.Path(sys.argv[2].partition("=")[2]).read_text())
pathlib.Path(os.environ["SNOWGATE_OUTPUT"], "out.txt").write_text(" ".join(words))
"""


def test_every_file_is_where_the_run_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started below the top of the repository, with data beside it, and outside of it by its whole name."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    for folder in (project / "part", project / "shared", outside):
        folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    (project / ".gitignore").write_text("shared\n*.txt\n")
    (project / "part" / "train.py").write_text(SCRIPT)
    for path, text in ((project / "part/a.txt", "a"), (project / "shared/b.txt", "b"), (outside / "c.txt", "c")):
        path.write_text(text)
    monkeypatch.chdir(project / "part")
    command = [sys.executable, "train.py", str(project / "part/a.txt"), f"--from={outside / 'c.txt'}"]
    run = record(command, output=Path("model"), say=lambda _text: None)
    assert (run["code"]["directory"], run["output"]) == ("part", "model")
    read = {one["name"]: Path(one["path"].removeprefix("file://")) for one in run["data"]}
    kept = {name: path.rename(tmp_path / name) for name, path in read.items()}
    assert sorted(kept) == ["a.txt", "b.txt", "c.txt"]
    unpack(Path("model", FOLDER, "source.tar"), tmp_path / "code")
    place = lay_out(tmp_path / "again", tmp_path / "code", run, kept)
    again = command_of(run, {"seed": "5"}, place, None)
    assert again[-2:] == ["--seed", "5"]
    assert str(project) not in " ".join(again)
    assert str(outside) not in " ".join(again)
    assert run_here(again[:-2], place, 60.0).status == 0
    assert (place.output / "out.txt").read_text() == "a b c"
    assert place.output == tmp_path / "again/project/part/model"


@pytest.mark.parametrize(("name", "link"), [("../out", ""), ("link", "/etc/passwd")])
def test_code_stays_in_its_folder(tmp_path: Path, name: str, link: str) -> None:
    """A file that climbs out, and a link that leads out, are refused; nothing is written beside."""
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as tar:
        member = tarfile.TarInfo(name)
        if link:
            member.type, member.linkname = tarfile.SYMTYPE, link
        tar.addfile(member, io.BytesIO(b""))
    with pytest.raises(ReproductionError, match=r"code/source\.tar can't be unpacked"):
        unpack(archive, tmp_path / "code")
    assert not (tmp_path / "out").exists()
