"""Options that every command has, said once."""

from pathlib import Path

import click

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
    "--server", envvar="SNOWGATE_SERVER", show_envvar=True, help="Ask a running gateway's control port instead."
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    show_default=True,
    help="Form of the result on standard output.",
)
