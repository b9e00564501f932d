"""`proposal merge --retrain`, as two people meet it: real runs under the recorder, merged and run again."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.home import Home
from bundles.packing import pack
from bundles.recording import record
from gateway.audit import now
from gateway.operations import OperationError, Operations
from gateway.proposals import Proposals
from gateway.retraining import retrain
from gateway.together import Together
from monitors.incidents import Incidents
from state.sqlite import SqliteState
from tests.conftest import write_model

TRAIN = """\
import argparse, json, os, shutil
from pathlib import Path
from scaling import scale

parser = argparse.ArgumentParser()
parser.add_argument("--seed")
parser.add_argument("--width")
given = parser.parse_args()
rows = sorted(line for path in Path("data").glob("*.csv") for line in path.read_text().split())
output = Path(os.environ["SNOWGATE_OUTPUT"])
for path in Path("template").iterdir():
    shutil.copy(path, output)
facts = {"seed": float(given.seed), "width": float(given.width), "rows": len(rows), "scale": scale()}
(output / "metrics.json").write_text(json.dumps(facts))
"""
SCALING = "def scale():\n    return 1\n"


class Project:
    """A project that two people work on, in a folder and a home of their own."""

    def __init__(self, folder: Path, operations: Operations) -> None:
        self.folder, self.operations = folder, operations
        write_model(folder / "template")
        (folder / "train.py").write_text(TRAIN)
        (folder / "scaling.py").write_text(SCALING)
        (folder / "data").mkdir()
        self.data("one", 10)

    def data(self, name: str, rows: int) -> None:
        """Write a file of data."""
        (self.folder / "data" / f"{name}.csv").write_text("1\n" * rows)

    def train(self, seed: int, width: int, branch: str | None = None) -> None:
        """Train under the recorder."""
        command = [sys.executable, "train.py", "--seed", str(seed), "--width", str(width)]
        record(command, output=Path("model"), say=lambda _text: None)
        pack(self.operations.home, Path("model"), model="signs", branch=branch)

    def bundle(self, reference: str) -> dict[str, Any]:
        """Return what is known of a bundle."""
        return self.operations.bundle(reference)


@pytest.fixture(name="project")
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Ana changed code and width on her branch; meanwhile ben's other seed, with more data, is on his."""
    home = Home(tmp_path / "home").make()
    state = SqliteState(home.state)
    operations = Operations(home, state, Incidents(state, now))
    project = Project(tmp_path / "here", operations)
    monkeypatch.chdir(project.folder)
    project.train(1, 8)
    operations.deploy("signs@1", "production", actor="ada")
    for name in ("ana", "ben"):
        Together(operations).fork("signs@production", f"signs@{name}", actor=name)
    (project.folder / "scaling.py").write_text(SCALING.replace("1", "2"))
    project.train(1, 16, "ana")
    (project.folder / "scaling.py").write_text(SCALING)
    project.data("two", 5)
    project.train(3, 8, "ben")
    yield project
    operations.labels.close()
    state.close()


def test_a_proposal_is_trained_again_on_what_serves_now(project: Project) -> None:
    """Code, parameters and data of both sides are in the new head, which has both as parents, and merges."""
    work = Proposals(project.operations)
    ana, ben = (work.open(f"signs@{name}", "production", text="", actor=name) for name in ("ana", "ben"))
    with pytest.raises(OperationError, match="is what it was made from already; there is nothing to merge"):
        retrain(work, ben["id"], actor="ben", say=lambda _text: None)
    work.merge(ben["id"], actor="ben")
    with pytest.raises(OperationError, match="production has moved"):
        work.merge(ana["id"], actor="ana")
    assert project.bundle("signs@ana")["metrics"] == {"seed": 1, "width": 16, "rows": 10, "scale": 2}
    assert project.bundle("signs@production")["metrics"] == {"seed": 3, "width": 8, "rows": 15, "scale": 1}

    said: list[str] = []
    retrained = retrain(work, ana["id"], actor="ana", say=said.append)
    assert (retrained["mergeable"], retrained["base_moved"]) == (True, False)
    assert {"data: data/one.csv", "data: data/two.csv"} <= set(said)
    assert work.merge(ana["id"], actor="ana")["state"] == "merged"
    shown = project.bundle("signs@production")
    assert shown["metrics"] == {"seed": 3, "width": 16, "rows": 15, "scale": 2}
    assert shown["parents"] == [ana["head"]["digest"], ben["head"]["digest"]]
    assert "signs@ana" in shown["refs"]
    assert shown["command"][1:] == ["train.py", "--seed", "3", "--width", "16"]
    assert {"data/one.csv", "data/two.csv"} <= {one["name"] for one in shown["data"]}
    assert not shown["code"]["dirty"], "what ran is what git merged"
    assert any("trained again" in one["event"] for one in work.show(ana["id"])["history"])
