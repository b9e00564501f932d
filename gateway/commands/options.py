"""Options that commands share, and what they open, said once."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bundles.home import Home
from gateway.audit import now
from gateway.operations import OperationError, Operations
from gateway.proposals import Proposals
from gateway.remote import RemoteOperations
from gateway.remote_together import RemoteTogether
from gateway.settings import find_file, load_settings, read_environment
from gateway.together import Together
from monitors.incidents import Incidents
from state.sqlite import SqliteState

SENTENCE_CHARACTERS_MAX = 200  # Two lines of a terminal.

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="SNOWGATE_HOME",
    default=Path(".snowgate"),
    show_default=True,
    show_envvar=True,
    help="The home folder.",
)
server_option = click.option(
    "--server",
    envvar="SNOWGATE_SERVER",
    show_envvar=True,
    help="Ask a gateway's control port, not a home folder.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    show_default=True,
    help="Form of the result on standard output.",
)
environment_option = click.option(
    "--environment", "--to", default="production", show_default=True, help="The environment."
)
branch_option = click.option(
    "--branch", help="The branch on which this goes on; its head becomes a parent.  [default: main, without a parent]"
)
policy_option = click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="The policy.  [default: server.policy_file of the settings, else policy.toml in the home]",
)
reason_option = click.option("--reason", default="", help="Why, in a sentence; it goes into the audit log.")


class NounGroup(click.Group):
    """The verbs of one noun, each with its whole first sentence in the list."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands; click would cut the sentences."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(SENTENCE_CHARACTERS_MAX)) for name, one in sorted(self.commands.items())]
            )


def operator_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --home, --server and --output."""
    return home_option(server_option(output_option(command)))


def existing_home(path: Path) -> Home:
    """Open a home that is there: a command that only looks makes none. Raises OperationError."""
    if not (path / "state.db").exists() and not (path / "refs.git").exists():
        msg = f"{path} is no home; give one with --home DIR, or make one: `snowgate bundle pack`, `snowgate demo`"
        raise OperationError(msg, 404)
    return Home(path).make()


def policed_home(path: Path, policy_file: Path | None = None) -> Home:
    """Open a home that is there, with the policy that was named, or that the settings name. Raises OperationError."""
    settings, _origins = load_settings(find_file(path), read_environment(), {"server.policy_file": policy_file})
    return Home(existing_home(path).path, settings.server.policy_file)


@contextmanager
def operations(home: Path, server: str | None) -> Iterator[Operations | RemoteOperations]:
    """Open a home's files, or the way to a running gateway."""
    if server is not None:
        yield RemoteOperations(server)
        return
    with _opened(existing_home(home)) as work:
        yield work


@contextmanager
def together(home: Path, server: str | None, policy_file: Path | None = None) -> Iterator[Together | RemoteTogether]:
    """Do the same for what people do side by side, under the home's policy."""
    if server is not None:
        yield RemoteTogether(server)
        return
    with together_here(home, policy_file) as work:
        yield work


@contextmanager
def together_here(home: Path, policy_file: Path | None = None) -> Iterator[Together]:
    """Do the same for what needs the home's own files."""
    with _opened(policed_home(home, policy_file)) as work:
        yield Together(work)


@contextmanager
def proposals(home: Path, server: str | None, policy_file: Path | None = None) -> Iterator[Proposals | RemoteTogether]:
    """Do the same for proposals."""
    with together(home, server, policy_file) as work:
        yield work if isinstance(work, RemoteTogether) else Proposals(work.operations)


@contextmanager
def _opened(home: Home) -> Iterator[Operations]:
    state = SqliteState(home.state)
    work = Operations(home, state, Incidents(state, now))
    try:
        yield work
    finally:
        work.labels.close()
        state.close()


def actor() -> str:
    """Say who is at the keyboard."""
    return getpass.getuser()


def progress(text: str) -> None:
    """Say on standard error what is being done."""
    click.echo(f"  {text}", err=True)
