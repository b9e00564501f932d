"""`snowgate withdraw`."""

from pathlib import Path

import click

from gateway.commands.deploy import tell, wait_for
from gateway.commands.options import actor, operations, operator_options, reason_option
from gateway.output import show


@click.command()
@operator_options
@click.argument("model")
@click.option("--from", "environment", default="production", show_default=True, help="The environment.")
@reason_option
@click.option("--wait", is_flag=True, help="Wait until the gateway has done it.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait.")
def withdraw(
    home: Path, server: str | None, output: str, model: str, environment: str, reason: str, wait: bool, timeout: float
) -> int:
    """Serve a model no more; calls that are in flight are answered.

    \b
    Example:
      snowgate withdraw signs --from production --reason "replaced by signs-eu"
    """
    with operations(home, server) as work:
        found = work.withdraw(model, environment, actor=actor(), reason=reason)
        status = 0
        if wait:
            found, status = wait_for(work, found, timeout)
    show(found, output, name="model", tell=tell)
    return status
