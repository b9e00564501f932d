"""The command line as a whole: quick, helpful about mistakes, and without tracebacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import COMMANDS, main

HEAVY = ("torch", "river", "fastapi", "dulwich", "numpy", "scipy", "uvicorn", "pydantic", "cryptography")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, printed.out, printed.err


def test_help_imports_nothing_heavy() -> None:
    """`snowgate --help` answers at once because it imports no command and nothing that a command needs."""
    program = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


def test_looking_at_incidents_needs_no_detectors() -> None:
    """The commands of the desk import no River, scipy or torch: they answer at once, too."""
    program = (
        "import sys\nimport gateway.commands.incident\n"
        "print([name for name in ('torch', 'river', 'scipy', 'pandas', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["bundel"], "'bundle'"),
        (["incidents"], "'incident'"),
        (["bundle", "lst"], "'list'"),
        (["rollout", "promte", "signs"], "'promote'"),
        (["deploy", "signs@1", "--canry", "3"], "'--canary'"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(capsys: pytest.CaptureFixture[str], typed: list[str], meant: str) -> None:
    """Wrong usage ends with 2 and says which word was probably meant; standard output stays empty."""
    code, out, err = run(capsys, *typed)
    assert code == 2
    assert out == ""
    assert f"Did you mean {meant}?" in err


def test_a_word_that_resembles_nothing_points_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a similar command, the sentence says how to find all."""
    code, _out, err = run(capsys, "xyzzy")
    assert code == 2
    assert "snowgate --help" in err


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What fails says what, where, and what to type next; a traceback comes with --debug only."""
    arguments = ("bundle", "list", "--home", str(tmp_path / "nothing"))
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert "nothing is no home" in err
    assert "snowgate bundle pack" in err
    assert len(err.splitlines()) == 1
    with pytest.raises(Exception, match="is no home"):
        main(["--debug", *arguments])


@pytest.mark.parametrize(
    "arguments", [["bundle", "list"], ["bundle", "verify", "m@1"], ["log", "verify"], ["incident", "list"]]
)
def test_looking_makes_no_home(capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]) -> None:
    """A command that only looks, given a folder that is not there, refuses and leaves no folder behind."""
    home = tmp_path / "nothing"
    assert run(capsys, *arguments, "--home", str(home))[0] == 1
    assert not home.exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints name and version."""
    code, out, _err = run(capsys, "--version")
    assert code == 0
    assert out.startswith("snowgate, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """Each shell gets a script that asks snowgate for completions."""
    code, out, _err = run(capsys, "completion", shell)
    assert code == 0
    assert "_SNOWGATE_COMPLETE" in out


def test_completion_finds_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the script asks is answered: a first letter leads to the commands that begin with it."""
    monkeypatch.setenv("_SNOWGATE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "snowgate bun")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        main([])
    assert "bundle" in capsys.readouterr().out
