"""The command line. A command's module is imported when it is asked for, so `snowgate --help` answers at once.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 rolled back, 4 timed out.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click

COMMANDS = {
    "demo": ("gateway.commands.demo:demo", "Tell the whole story on real images, in under two minutes."),
    "serve": ("gateway.commands.serve:serve", "Serve the models that are deployed in a home."),
    "train": ("gateway.commands.train:train", "Run a training command, record it, and pack what it made."),
    "bundle": ("gateway.commands.bundle:bundle", "Pack, list, show, verify and trust bundles."),
    "deploy": ("gateway.commands.deploy:deploy", "Say which version an environment shall serve."),
    "proposal": ("gateway.commands.proposal:proposal", "Propose a branch for an environment, review and merge it."),
    "policy": ("gateway.commands.policy:policy", "See whose words about bundles count, and what is asked of them."),
    "key": ("gateway.commands.key:key", "Make keys for people, and show their public halves."),
    "withdraw": ("gateway.commands.withdraw:withdraw", "Serve a model no more in an environment."),
    "rollout": ("gateway.commands.rollout:rollout", "See a rollout, promote or abort it; scale runners."),
    "prediction": (
        "gateway.commands.prediction:prediction",
        "Look up what was answered and why; say what turned out to be true.",
    ),
    "incident": ("gateway.commands.incident:incident", "See what shifted, acknowledge it, decide about it."),
    "monitor": ("gateway.commands.monitor:monitor", "See what is watched, and how far it is from a page."),
    "log": ("gateway.commands.log:log", "Check the prediction log, and see who follows it."),
    "data": ("gateway.commands.data:data", "Keep, bring back and look for the training data that bundles name."),
    "config": ("gateway.commands.config:config", "Show the settings and where each comes from."),
    "doctor": ("gateway.commands.doctor:doctor", "Check that this machine can serve."),
    "completion": ("gateway.commands.completion:completion", "Print the completion script for your shell."),
}
EXAMPLES = """
\b
Examples:
  snowgate demo                                   the whole story, on this machine
  snowgate bundle pack ./model --model signs      a folder becomes a signed bundle
  snowgate deploy signs@1 --to production         say what shall serve
  snowgate serve                                  serve it
  snowgate incident list                          what shifted?

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 rolled back, 4 timed out.
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of the story."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean '{close[0]}'?" if close else " `snowgate --help` lists all."
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_place, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.version_option(package_name="snowgate")
def cli(*, debug: bool) -> None:
    """Snowgate: a model serving gateway that knows when it starts snowing."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; an error is a sentence, a traceback comes with --debug only."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status: Any = cli.main(list(arguments), prog_name="snowgate", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except Exception as error:
        if "--debug" in arguments:
            raise
        click.echo(f"snowgate: {error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
