"""What the documents say is true: commands exist, examples parse, marked blocks run.

A fenced block of README.md or docs/ whose opening line is "bash run" or "python run" is run in an empty folder.
`docs/cli.md` is written by `python -m tests.test_docs` from the commands' own help.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gateway.cli import COMMANDS, cli
from gateway.settings import PREFIX, Settings, known_keys, load_settings
from tests.test_tidy import ROOT, own_files

REFERENCE = ROOT / "docs" / "cli.md"
HELP_WIDTH = 100
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IN_TEXT = re.compile(r"`(snowgate [a-z][^`\n]*)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
PLANNED = re.compile(r"not (?:there|here|built) yet", re.IGNORECASE)
INTRODUCTION = """\
# The command line

Every command prints its result on standard output and everything else on standard error. `-o json` is for scripts: it
carries all of it, and stays stable. `--home` opens a home's files directly, which is safe beside a running gateway;
`--server` asks a gateway's control port. `--debug`, before the command, shows tracebacks.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 rolled back, 4 timed out.

This page is written by `python -m tests.test_docs`; a test says when it is out of date.
"""


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command with its full name and its context, groups before their members."""
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from walk(member, context_of(member, name, context))


def context_of(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """Return a context in which help comes out the same on every terminal."""
    settings: dict[str, Any] = dict(command.context_settings)
    settings |= {"terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


def commands() -> dict[str, tuple[click.Command, click.Context]]:
    """Return all commands by their full names."""
    return {name: (command, context) for name, command, context in walk(cli, context_of(cli, "snowgate"))}


def reference() -> str:
    """Write docs/cli.md."""
    parts = [INTRODUCTION]
    for name, (command, context) in commands().items():
        parts.append(f"{'##' if name.count(' ') < 2 else '###'} {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def documents() -> list[Path]:
    """Return the documents in which users look."""
    return [path for path in own_files(".md") if path.parent == ROOT or "docs" in path.relative_to(ROOT).parts]


def blocks(marked: bool = False) -> list[tuple[str, str, str]]:
    """Return the fenced blocks of all documents: where, language, text."""
    return [
        (f"{path.name}:{path.read_text()[: match.start()].count(chr(10)) + 1}", match[1], match[3])
        for path in documents()
        for match in BLOCK.finditer(path.read_text())
        if not marked or match[2].strip() == "run"
    ]


def typed_commands() -> Iterator[tuple[str, str]]:
    """Yield every `snowgate …` that a document, a help text or an error tells the user to type, with its place."""
    for path in documents():
        kept = [line for line in path.read_text().splitlines() if not PLANNED.search(line)]
        for match in IN_TEXT.finditer("\n".join(kept)):
            yield path.name, match[1]
    for path in own_files(".py"):
        if path.relative_to(ROOT).parts[0] != "tests":
            for match in IN_TEXT.finditer(path.read_text()):
                yield path.name, match[1]
    for where, language, text in blocks():
        if language in {"bash", "sh", "console", "shell"}:
            for line in text.replace("\\\n", " ").splitlines():
                words = line.strip().removeprefix("$ ")
                if words.startswith("snowgate "):
                    yield where, words
    for name, (command, _context) in commands().items():
        for line in (command.help or "").splitlines() + str(command.epilog or "").splitlines():
            if line.strip().startswith("snowgate "):
                yield f"{name} --help", line.strip()


def options_of(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield a command's options, `--approve/--reject` as two."""
    for parameter in command.get_params(context):
        yield from (*parameter.opts, *parameter.secondary_opts)


def complaint(typed: str) -> str | None:
    """Say what is wrong with a command line that is shown to users, or None."""
    words = shlex.split(re.sub(r"\s{3,}.*|\s[|#>&].*|\s…", "", typed), comments=True)
    command: click.Command = cli
    context = context_of(cli, "snowgate")
    options = set(options_of(command, context))
    for word in words[1:]:
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in options | {"--help", "-h"}:
                return f"{context.command_path} has no option {word}"
        elif isinstance(command, click.Group):
            for name in re.split(r"[|,]", word.strip("{}")):
                if command.get_command(context, name) is None:
                    return f"{context.command_path} has no command {name}"
            if "|" in word:
                return None
            found = command.get_command(context, word)
            assert found is not None
            command, context = found, context_of(found, word, context)
            options |= set(options_of(command, context))
    return None


def test_reference_is_what_help_says() -> None:
    """docs/cli.md holds every command with its options, as the command itself describes them."""
    assert REFERENCE.read_text() == reference(), "out of date: python -m tests.test_docs writes it anew"


def test_every_command_shows_an_example() -> None:
    """The help of each command has an example in which the command itself is typed."""
    for name, (command, context) in commands().items():
        if not isinstance(command, click.Group):
            _before, _heading, after = command.get_help(context).partition("Example")
            assert name in after, name
            assert "\\b" not in after, f"{name}: a raw docstring, in which click finds no mark against wrapping"


def test_every_option_is_explained() -> None:
    """No option is without help."""
    for name, (command, context) in commands().items():
        for parameter in command.get_params(context):
            assert not isinstance(parameter, click.Option) or parameter.help, f"{name} {parameter.opts}"


def test_commands_that_users_are_told_to_type_exist() -> None:
    """Each `snowgate …` in a document, a help text or an error names a command and options that there are."""
    found = [f"{where}: {typed}: {problem}" for where, typed in typed_commands() if (problem := complaint(typed))]
    assert found == []
    assert complaint("snowgate bundel list")
    assert complaint("snowgate bundle list --nope")
    assert complaint("snowgate deploy m@1 --to production --canary 10") is None


def test_the_table_of_commands_tells_the_truth() -> None:
    """The sentence that `snowgate --help` shows without importing a command belongs to a command that exists."""
    assert {name.removeprefix("snowgate ") for name in commands() if name.count(" ") == 1} == set(COMMANDS)


def test_make_targets_in_the_documents_exist() -> None:
    """Each `make …` that a document names is a target, and `make help` lists it."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for path in documents():
        for name in re.findall(r"(?:`|^ {4}|^\$ |^)make ([a-z]+)\b", path.read_text(), re.MULTILINE):
            assert name in targets, f"{path.name}: make {name}"
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets <= set(re.findall(r"^make (\w+)", listed, re.MULTILINE))


def test_toml_in_the_documents_is_valid() -> None:
    """Each TOML block parses, and one that holds settings holds known ones."""
    for where, language, text in blocks():
        if language == "toml":
            document = tomllib.loads(text)
            if set(document) & set(Settings.model_fields):
                Settings.model_validate(document)
            assert document, where


def test_variables_in_the_documents_are_settings() -> None:
    """Each `SNOWGATE_SECTION__KEY` that a document names is one."""
    known = {PREFIX + key.upper().replace(".", "__") for key in known_keys()}
    for path in [*documents(), ROOT / "Dockerfile"]:
        for name in re.findall(r"SNOWGATE_[A-Z]+__[A-Z_]+", path.read_text()):
            assert name in known | {"SNOWGATE_SECTION__KEY"}, f"{path.name}: {name}"
    assert load_settings(None, {"SNOWGATE_SERVER__PORT": "9000"}, {})[0].server.port == 9000


def test_links_in_the_documents_lead_somewhere() -> None:
    """Each link to a file leads to one, and from the README a newcomer finds every page of docs/."""
    for path in documents():
        for target in LINK.findall(path.read_text()):
            assert "://" in target or (path.parent / target).exists(), f"{path.name}: {target}"
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_marked_blocks_run(tmp_path: Path) -> None:
    """A block that is marked for running runs, in an empty folder, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for number, (where, language, text) in enumerate(blocks(marked=True)):
        command = {"bash": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[language]
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{where}\n{done.stdout}\n{done.stderr}"


if __name__ == "__main__":
    REFERENCE.parent.mkdir(exist_ok=True)
    REFERENCE.write_text(reference())
