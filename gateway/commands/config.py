"""`snowgate config`."""

import json
from pathlib import Path

import click

from gateway.commands.options import home_option, output_option
from gateway.output import show
from gateway.settings import Settings, find_file, known_keys, load_settings, read_environment


@click.group()
def config() -> None:
    """Show the settings and where each comes from."""


@config.command("show")
@home_option
@output_option
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: snowgate.toml]")
def show_(home: Path, output: str, file: Path | None) -> None:
    """Show every setting: its value and its origin (flag, variable, file or default)."""
    settings, origins = load_settings(file or find_file(home), read_environment(), {})
    values = settings.model_dump(mode="json")
    rows = []
    for key in known_keys():
        value = values
        for part in key.split("."):
            value = value[part]
        rows.append({"key": key, "value": value, "origin": origins.get(key, "default")})
    columns = [
        ("key", lambda one: one["key"]),
        ("value", lambda one: one["value"]),
        ("origin", lambda one: one["origin"]),
    ]
    show(rows, output, columns=columns, name="key")


@config.command()
def schema() -> None:
    """Print the JSON Schema of snowgate.toml."""
    click.echo(json.dumps(Settings.model_json_schema(), indent=2))
