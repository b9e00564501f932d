"""The ready workflow: it is parsed, and what it tells a shell to do is done for real, as GitHub would."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import write_model
from tests.test_tidy import ROOT

WORKFLOW = ROOT / "deploy" / "github" / "snowgate.yml"
TRAIN = """\
import os, shutil, sys
from pathlib import Path
output = Path(os.environ["SNOWGATE_OUTPUT"])
for path in Path("model.in").iterdir():
    shutil.copy(path, output)
"""
GATE = """\
[keys.ci]
key = "{key}"
roles = ["tester"]

[keys.home]
key = "{home}"
executes = ["code"]

[environments.staging]
tested = 1
"""


@pytest.fixture(scope="module", name="workflow")
def _workflow() -> dict[str, Any]:
    """The workflow as it is parsed; YAML 1.1 reads the key `on` as a truth value."""
    document: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
    document["on"] = document.pop(True)
    return document


class Runner:
    """Does what a hosted runner does with the steps that talk to a shell."""

    def __init__(self, workflow: dict[str, Any], folder: Path) -> None:
        self.steps = {one["name"]: one for one in workflow["jobs"]["bundle"]["steps"] if "name" in one}
        self.folder, self.temporary = folder, folder.parent / "temporary"
        self.temporary.mkdir(exist_ok=True)
        plain = {name: value for name, value in workflow["env"].items() if "${{" not in str(value)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.variables = os.environ | plain | {"PATH": path, "PYTHONPATH": str(ROOT)}
        for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            self.variables[name] = str(self.temporary / name)
        self.variables |= {"RUNNER_TEMP": str(self.temporary), "GITHUB_RUN_ID": "7", "GITHUB_SHA": "abc"}

    def run(self, name: str, variables: dict[str, str], status: int = 0) -> str:
        """Run a step's script as GitHub does (bash, ending at the first failure), and return what it said."""
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", self.steps[name]["run"]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def test_the_workflow_is_safe_to_copy(workflow: dict[str, Any]) -> None:
    """Scripts get variables, never text that GitHub puts into them; the token may write comments and nothing else."""
    steps = workflow["jobs"]["bundle"]["steps"]
    assert set(workflow["on"]) == {"pull_request", "push"}
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert [one["name"] for one in steps if "${{" in one.get("run", "")] == []
    caches = [one["with"]["path"] for one in steps if one.get("uses", "").startswith("actions/cache")]
    assert len(caches) == 2
    assert all("!.snowgate/keys" in path for path in caches)
    assert all(re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@v\d+", one["uses"]) for one in steps if "uses" in one)


def test_the_workflow_trains_gates_and_compares(workflow: dict[str, Any], tmp_path: Path) -> None:
    """Main is trained and noted; a pull request is trained on its branch, judged by main's policy, and compared."""
    folder = tmp_path / "repository"
    write_model(folder / "model.in")
    (folder / "train.py").write_text(TRAIN)
    runner = Runner(workflow, folder)
    key = tmp_path / "ci.pem"
    made = [sys.executable, "-m", "gateway.cli", "key", "new", str(key), "-o", "json"]
    inline = yaml.safe_load(subprocess.run(made, check=True, capture_output=True, cwd=ROOT).stdout)["inline"]

    runner.run("Train", {"BRANCH": "main"})
    home = [sys.executable, "-m", "gateway.cli", "key", "show", "-o", "json", "--home", str(folder / ".snowgate")]
    own = yaml.safe_load(subprocess.run(home, check=True, capture_output=True, cwd=ROOT).stdout)["inline"]
    (folder / "policy.toml").write_text(GATE.format(key=inline, home=own))
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True)
    runner.run("Note what serves", {"BRANCH": "main"})

    (folder / "policy.toml").write_text("[environments.staging]\n")  # The pull request's own would let anything in.
    write_model(folder / "model.in", sign=2.0)
    here = {"BRANCH": "pull-3", "BASE": "HEAD"}
    runner.run("Train", here)
    assert "0 of 1 testers" in runner.run("Gate", here)
    assert (runner.temporary / "GITHUB_OUTPUT").read_text() == "passed=false\n"
    runner.run("Refuse", here, 1)
    runner.run("Sign", {"KEY": key.read_text(), **here})
    assert "1 of 1 testers signed that it passed (ci)" in runner.run("Gate", here)
    assert (runner.temporary / "GITHUB_OUTPUT").read_text().endswith("passed=true\n")
    runner.run("Compare", here)
    comment = (runner.temporary / "comment.md").read_text()
    assert comment.startswith("### signs@pull-3\n")
    assert "1 of 1 testers" in comment
    assert "-parameters = { sign = 1.0 }" in comment
    assert not list(runner.temporary.glob("*.pem"))
