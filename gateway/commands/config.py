"""`snowgate config`."""

import json
from pathlib import Path

import click

from gateway.commands.options import NounGroup, home_option, output_option
from gateway.output import Column, show
from gateway.settings import Settings, find_file, known_keys, load_settings, read_environment


@click.group(cls=NounGroup)
def config() -> None:
    """Show the settings and where each comes from."""


@config.command("show")
@home_option
@output_option
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file.  [default: snowgate.toml]")
@click.option("--origin", is_flag=True, help="Say where each value comes from: variable, file or default.")
def show_(home: Path, output: str, file: Path | None, origin: bool) -> None:
    """Show every setting and its value.

    \b
    Examples:
      snowgate config show --origin
      SNOWGATE_SERVER__PORT=9000 snowgate config show --origin -o json
    """
    settings, origins = load_settings(file or find_file(home), read_environment(), {})
    values = settings.model_dump(mode="json")
    models = values.pop("models")
    rows = []
    for key in known_keys():
        value = values
        for part in key.split("."):
            value = value[part]
        rows.append({"key": key, "value": value, "origin": origins.get(key, "default")})
    for name, given in models.items():
        of_log = {f"log.{key}": value for key, value in given.pop("log").items()}
        found = [(f"models.{name}.{key}", value) for key, value in (given | of_log).items() if value is not None]
        rows += [{"key": key, "value": value, "origin": origins[key]} for key, value in found]
    columns: list[Column] = [("key", lambda one: one["key"]), ("value", lambda one: one["value"])]
    if origin:
        columns.append(("origin", lambda one: one["origin"]))
    show(rows, output, columns=columns, name="key")


@config.command()
def schema() -> None:
    """Print the JSON Schema of snowgate.toml.

    \b
    Example:
      snowgate config schema > snowgate.schema.json
    """
    click.echo(json.dumps(Settings.model_json_schema(), indent=2))
