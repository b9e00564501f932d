"""`snowgate serve`."""

import json
import logging.config
from pathlib import Path

import click
import uvloop

from bundles.home import Home
from gateway.app import Addresses, run_gateway
from gateway.commands.options import home_option
from gateway.logs import logging_configuration
from gateway.settings import find_file, load_settings, read_environment


@click.command()
@home_option
@click.option("--port", type=int, help="Data port; gRPC on port+1, control on port+2; 0: free ones.  [default: 8080]")
@click.option("--grpc-port", type=int, help="gRPC's port; 0 picks a free one.  [default: port+1]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--workers", type=int, help="Worker processes that share the data port.  [default: 1]")
@click.option("--environment", help="The environment whose refs are followed.  [default: production]")
@click.option("--api-keys-file", type=click.Path(path_type=Path), help="A file with one API key a line.")
@click.option("--insecure", is_flag=True, default=None, help="Serve another address than loopback without keys.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: snowgate.toml]")
def serve(
    home: Path,
    port: int | None,
    grpc_port: int | None,
    host: str | None,
    workers: int | None,
    environment: str | None,
    api_keys_file: Path | None,
    insecure: bool | None,
    file: Path | None,
) -> None:
    """Serve what is deployed in a home, until SIGTERM or Ctrl-C.

    When every deployment has gone as far as it can, one JSON line on standard output says where.

    \b
    Examples:
      snowgate serve
      snowgate serve --home /var/lib/snowgate --host 0.0.0.0 --api-keys-file keys.txt
    """
    flags = {
        "server.port": port,
        "server.grpc_port": grpc_port,
        "server.host": host,
        "server.workers": workers,
        "server.environment": environment,
        "server.api_keys_file": api_keys_file,
        "server.insecure": insecure,
        "logging.level": "debug" if click.get_current_context().find_root().params["debug"] else None,
    }
    settings, _origins = load_settings(file or find_file(home), read_environment(), flags)
    logging.config.dictConfig(logging_configuration(settings.logging, "control"))

    def say(addresses: Addresses) -> None:
        click.echo(json.dumps({"ready": True} | addresses.to_json()))
        if settings.logging.format == "text":
            click.echo(f"console: {addresses.control}   models: {addresses.http}/v2/models   end with Ctrl-C", err=True)

    uvloop.run(run_gateway(Home(home, settings.server.policy_file), settings, say))
