import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bundles.bundle import SOURCE, describe, open_bundle
from bundles.digest import sha256_file
from bundles.errors import CommandFailed, RecipeError, RecordingError
from bundles.home import Home
from bundles.packing import pack
from bundles.recording import FOLDER, author, record


@pytest.fixture
def work(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the project's folder, and be in it."""
    monkeypatch.chdir(project)
    return project


def run(work: Path, program: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """Record a Python program that writes into `SNOWGATE_OUTPUT`."""
    (work / "train.py").write_text(
        "import os, sys, pathlib\nout = pathlib.Path(os.environ['SNOWGATE_OUTPUT'])\n" + program
    )
    command = [sys.executable, "train.py", *arguments]
    return record(command, output=work / "out", say=more.pop("say", lambda _text: None), **more)


def data(facts: dict[str, Any]) -> dict[str, str]:
    """Return name and authority of the recorded data files."""
    return {one["name"]: one["authority"] for one in facts["data"]}


COPY = "import shutil\nfor name in os.listdir('.'):\n    if os.path.isfile(name): shutil.copy(name, out)\n"


def test_a_run_becomes_a_bundle_that_knows_it(work: Path, home: Home) -> None:
    """What the recorder saw stands in the bundle: command, parameters, seeds, code, data, outputs, who, when."""
    (work / "train.csv").write_text("1,2\n")
    facts = run(work, "open('train.csv').read()\n" + COPY, "--seed", "7", "--rate=0.1", parameters={"note": "x"})
    assert facts["command"][1:] == ["train.py", "--seed", "7", "--rate=0.1"]
    assert facts["parameters"] == {"seed": "7", "rate": "0.1", "note": "x"}
    assert facts["seeds"] == {"seed": "7"}
    assert facts["started"] < facts["finished"]
    assert facts["seconds"] > 0
    assert facts["peak_memory_bytes"] > 1_000_000
    assert author(facts["who"]) == "A Tester <tester@example.org>"
    bundle = open_bundle(home.store(), pack(home, work / "out").digest)
    assert bundle.run() == facts
    assert bundle.file(SOURCE) == (work / "out" / FOLDER / "source.tar").read_bytes()
    shown = describe(bundle, "1", [], [])
    assert shown["seeds"] == {"seed": "7"}
    assert "train.csv" in {one["name"] for one in shown["data"]}
    assert shown["declared_files"] == []
    provenance = bundle.provenance()
    assert provenance["buildDefinition"]["buildType"] == "https://snowgate.dev/train/v1"
    assert provenance["buildDefinition"]["externalParameters"]["argv"] == facts["command"]
    assert provenance["runDetails"]["metadata"]["startedOn"] == facts["started"]
    resources = {one["name"]: one for one in provenance["buildDefinition"]["resolvedDependencies"]}
    assert f"sha256:{resources['data/train.csv']['digest']['sha256']}" == sha256_file(work / "train.csv")


def test_what_was_changed_after_the_run_is_declared(work: Path, home: Home) -> None:
    """Weights that somebody put there later do not pass for those of the recorded run."""
    run(work, COPY)
    shutil.copy(work / "holdout.npz", work / "out" / "later.npz")
    (work / "out" / "divider.py").write_text((work / "divider.py").read_text() + "# better\n")
    said: list[str] = []
    bundle = open_bundle(home.store(), pack(home, work / "out", say=said.append).digest)
    assert describe(bundle, "1", [], [])["declared_files"] == ["model/divider.py", "model/later.npz"]
    assert any("model/divider.py, model/later.npz" in line for line in said)


def test_undeclared_data_is_observed(work: Path) -> None:
    """What the program read is found without anybody saying so: text, binary, through numpy, with its digest."""
    (work / "a.csv").write_text("1\n")
    facts = run(work, "import numpy\nopen('a.csv')\nnumpy.load('weights.npy')\nos.open('holdout.npz', os.O_RDONLY)\n")
    assert data(facts) == {"a.csv": "observed", "holdout.npz": "observed", "weights.npy": "observed"}
    assert {one["name"]: one["sha256"] for one in facts["data"]}["a.csv"] == sha256_file(work / "a.csv")
    assert set(facts["authority"]["observed"]) >= {"data", "environment", "code"}


def test_declared_data_says_whether_it_was_seen(work: Path) -> None:
    """A file that was declared and not opened stays declared; one that was opened is observed."""
    for name in ("a.parquet", "b.csv"):
        (work / name).write_text("1\n")
    facts = run(work, "open('b.csv')\n", data=[Path("a.parquet"), Path("b.csv")])
    assert data(facts) == {"a.parquet": "declared", "b.csv": "observed"}


def test_children_are_observed(work: Path) -> None:
    """A forked worker that ends without its exit handlers, as data loaders do, and a program that it starts."""
    for name in ("forked.csv", "started.csv"):
        (work / name).write_text("1\n")
    (work / "child.py").write_text("open('started.csv')\n")
    program = (
        "import subprocess\n"
        "child = os.fork()\n"
        "if child == 0:\n    open('forked.csv')\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "subprocess.run([sys.executable, 'child.py'], check=True)\n"
    )
    assert data(run(work, program)) == {"forked.csv": "observed", "started.csv": "observed"}


def test_what_the_run_made_is_no_data(work: Path) -> None:
    """Files that it wrote before it read them, its output, and Python's own files are left out."""
    program = (
        "open('made.csv', 'w').write('1')\nopen('made.csv').read()\n"
        "(out / 'model.bin').write_text('1')\n(out / 'model.bin').read_text()\n"
        "import json, email, numpy\n"
    )
    facts = run(work, program)
    assert data(facts) == {}
    assert [one["name"] for one in facts["outputs"]] == ["model.bin"]


def test_data_that_changed_during_the_run_says_so(work: Path) -> None:
    """The digest is of what is there at the end; when that is not what was opened, it is said."""
    (work / "a.csv").write_text("1\n")
    facts = run(work, "open('a.csv')\nopen('a.csv', 'a').write('2')\n")
    assert facts["data"][0]["changed_during_run"] is True


def test_a_failing_command_keeps_its_exit_status(work: Path, home: Home) -> None:
    """Nothing is recorded as if it had gone well, what it said is kept, and an earlier run does not speak for it."""
    run(work, COPY)
    with pytest.raises(CommandFailed, match="exit status 3") as caught:
        run(work, "print('no luck')\nsys.exit(3)\n")
    assert caught.value.status == 3
    assert "no luck" in (work / "out" / FOLDER / "log.txt").read_text()
    assert not (work / "out" / FOLDER / "run.json").exists()
    assert home.store().list() == []


def test_a_killed_command_says_by_which_signal(work: Path) -> None:
    """A status below zero is a signal, as the out-of-memory killer sends it."""
    with pytest.raises(CommandFailed, match="ended by signal 9") as caught:
        run(work, "os.kill(os.getpid(), 9)\n")
    assert caught.value.status == -9


def test_a_command_that_is_not_there(work: Path) -> None:
    """A typing mistake is one clear sentence."""
    with pytest.raises(RecordingError, match="pyhton: can't be started: No such file"):
        record(["pyhton", "train.py"], output=work / "out", say=lambda _text: None)


def test_what_it_says_is_shown_and_kept(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On standard error, since standard output is for data; bytes that are no text are kept as they are."""
    run(work, "print('epoch 1: é', flush=True)\nsys.stdout.buffer.write(b'\\xff\\n')\nsys.stderr.write('warned\\n')\n")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "epoch 1: é\n" in shown.err
    assert "warned" in shown.err
    assert b"\xff\n" in (work / "out" / FOLDER / "log.txt").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [["--api-key", "0123456789"], ["--hf_token=0123456789"], ["--db.password", "0123456789"], ["API_KEY=0123456789"]],
)
def test_secrets_are_refused(work: Path, arguments: list[str]) -> None:
    """The command line is recorded, so it can hold no secret; nothing is run."""
    with pytest.raises(RecordingError, match="looks like a secret") as caught:
        run(work, "open('ran', 'w')\n", *arguments)
    assert "0123456789" not in str(caught.value)
    assert not (work / "ran").exists()


def test_a_token_is_refused_wherever_it_stands(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a word without a name, in a parameter, in a recorded variable: refused before anything runs, never printed."""
    token = "ghp_" + "a1B2" * 9
    with pytest.raises(RecordingError, match=r"word 3 of the command: looks like a secret: a GitHub token") as caught:
        run(work, "open('ran', 'w')\n", token)
    assert token not in str(caught.value)
    with pytest.raises(RecordingError, match="note: looks like a secret"):
        run(work, "open('ran', 'w')\n", parameters={"note": token})
    monkeypatch.setenv("TZ", token)
    with pytest.raises(RecordingError, match="TZ: looks like a secret"):
        run(work, "open('ran', 'w')\n")
    assert not (work / "ran").exists()


def test_credentials_do_not_stay_in_the_record(work: Path) -> None:
    """The command runs with its URL as it is; what is recorded, and what it said, has no password in it."""
    said: list[str] = []
    program = "assert 's3cret' in sys.argv[2]\nprint(sys.argv[2], 'hf_' + 'a1B2' * 9)\n"
    facts = run(work, program, "--from", "https://me:s3cret@data.example/a", say=said.append)
    assert facts["command"][2:] == ["--from", "https://data.example/a"]
    assert facts["parameters"] == {"from": "https://data.example/a"}
    assert any("credentials in URLs are cut out" in line for line in said)
    assert (work / "out" / FOLDER / "log.txt").read_text() == "https://data.example/a [redacted]\n"
    assert "s3cret" not in (work / "out" / FOLDER / "run.json").read_text()


def test_what_a_run_cost_and_came_to(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU seconds and memory of the command alone, seeds from the environment too, and metrics.json."""
    monkeypatch.setenv("PYTHONHASHSEED", "5")
    # The kernel counts what the process had before it became the command: the memory of whoever started it.
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 200_000_000
    said = '{"accuracy": 0.5, "note": "x"}'
    program = f"block = bytearray({more})\n(out / 'metrics.json').write_text('{said}')\n"
    facts = run(work, program, "--seed", "7")
    assert facts["peak_memory_bytes"] > more
    assert facts["cpu_seconds"] > 0
    assert facts["seeds"] == {"seed": "7", "PYTHONHASHSEED": "5"}
    assert facts["metrics"] == {"accuracy": 0.5}
    assert run(work, "")["peak_memory_bytes"] < more, "an earlier command's memory is not this one's"


def test_undeclared_data_is_named_and_strict_refuses_it(work: Path, home: Home) -> None:
    """At the end of a run undeclared files are listed; with `strict` they are an error and there is no run to pack."""
    for name in ("a.csv", "b.csv"):
        (work / name).write_text("x,y\n1,2\n3,4\n")
    said: list[str] = []
    program = "open('a.csv')\nopen('b.csv')\n"
    facts = run(work, program, data=["train=a.csv"], say=said.append)
    entries = {one["name"]: (one["declared"], one["role"], one["rows"], one["columns"]) for one in facts["data"]}
    assert entries == {"a.csv": (True, "train", 2, 2), "b.csv": (False, None, 2, 2)}
    assert any(line.endswith("b.csv") and "not declared" in line for line in said)
    with pytest.raises(RecordingError, match=r"--strict: read and not declared: b\.csv; .* --data b\.csv"):
        run(work, program, data=["a.csv"], strict=True)
    assert not (work / "out" / FOLDER / "run.json").exists()
    run(work, program, data=["a.csv", "b.csv"], strict=True)
    with pytest.raises(RecordingError, match="no Python process was seen"):
        record([sys.executable, "-I", "-c", ""], output=work / "out", strict=True, say=lambda _text: None)


def test_a_folder_declares_what_is_below_it(work: Path) -> None:
    """What was read of it is observed and declared; a folder of which nothing was seen counts whole."""
    for name in ("seen/a.csv", "seen/b.csv", "unseen/c.bin", "unseen/deep/d.bin"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("1\n")
    facts = run(work, "open('seen/a.csv')\n", data=["seen", "holdout=unseen"], strict=True)
    found = {one["name"]: (one["authority"], one["declared"], one["role"]) for one in facts["data"]}
    assert found == {
        "seen/a.csv": ("observed", True, None),
        "unseen/c.bin": ("declared", True, "holdout"),
        "unseen/deep/d.bin": ("declared", True, "holdout"),
    }


def test_words_of_the_trade_are_no_secrets(work: Path) -> None:
    """Tokens and keys are what language models are made of."""
    run(work, "", "--max-tokens", "2048", "--tokenizer", "bytepair", "--pad-token", "<pad>", "--key-dim", "64")


def test_the_environment_is_an_allow_list(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that change a result are recorded, all others, with what is secret in them, are not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CLOUD_SECRET", "s3cret-s3cret")
    run(work, "assert os.environ['CLOUD_SECRET']\n")
    text = (work / "out" / FOLDER / "run.json").read_text()
    assert '"OMP_NUM_THREADS": "1"' in text
    assert "s3cret" not in text


def test_a_command_that_hides_from_the_observer(work: Path) -> None:
    """With -I no hook is loaded: then data and environment are said to be declared, not observed."""
    (work / "a.csv").write_text("1\n")
    said: list[str] = []
    command = [sys.executable, "-I", "-c", "open('a.csv')"]
    facts = record(command, output=work / "out", data=[Path("a.csv")], say=said.append)
    assert data(facts) == {"a.csv": "declared"}
    assert {"data", "environment"} <= set(facts["authority"]["declared"])
    assert any("not observed" in line for line in said)


def test_the_environment_s_own_sitecustomize_runs(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours stands before it on the path, and must not shadow it."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import builtins\nbuiltins.greeting = 'hello'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    run(work, "assert greeting == 'hello'\n")


def test_a_program_that_closes_all_descriptors_is_not_written_into(work: Path) -> None:
    """The observer keeps no file open whose number the program could come to use for its own."""
    (work / "a.csv").write_text("1\n")
    program = "os.closerange(3, 100)\nmine = open('mine.txt', 'w')\nopen('a.csv').close()\nmine.write('mine')\n"
    assert data(run(work, program)) == {"a.csv": "observed"}
    assert (work / "mine.txt").read_text() == "mine"


def test_missing_data_is_refused_before_the_run(work: Path) -> None:
    """A run of hours must not end with a typing mistake."""
    with pytest.raises(RecordingError, match=r"--data gone\.csv: no such file"):
        run(work, "open('ran', 'w')\n", data=[Path("gone.csv")])
    assert not (work / "ran").exists()


def test_an_output_that_cannot_be_written(work: Path) -> None:
    """One clear sentence, before anything runs."""
    (work / "file").write_text("")
    with pytest.raises(RecordingError, match="file: can't be written"):
        record([sys.executable, "-c", ""], output=work / "file", say=lambda _text: None)


@pytest.mark.parametrize("spoil", ["run.json", "source.tar", "pylock.toml", "schema"])
def test_a_spoilt_record_is_not_packed(work: Path, home: Home, spoil: str) -> None:
    """Half a record is a mistake with its folder's name, not half a provenance."""
    run(work, COPY)
    folder = work / "out" / FOLDER
    if spoil == "schema":
        (folder / "run.json").write_text('{"schema": 99}')
    elif spoil == "run.json":
        (folder / spoil).write_text("{")
    else:
        (folder / spoil).unlink()
    with pytest.raises(RecipeError, match="record the run again"):
        pack(home, work / "out")


def test_a_user_without_a_name(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container a user may have neither a name nor git's; then the number stands there."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    facts = run(work, "")
    assert facts["who"]["user"] == "uid 54321"
    assert author(facts["who"]) == f"uid 54321@{facts['who']['host']}"
