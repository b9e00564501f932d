"""`snowgate log`."""

import click

from gateway.commands.log_verify import verify
from gateway.commands.options import NounGroup


@click.group(cls=NounGroup)
def log() -> None:
    """Check the prediction log."""


log.add_command(verify)
