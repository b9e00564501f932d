"""`snowgate train`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from bundles.data import CARRIED_FILE_BYTES_MAX, keep
from bundles.errors import RecordingError
from bundles.home import Home
from bundles.packing import FLOOR_FILE, own_environment, pack
from bundles.recipe import read_recipe
from bundles.recording import FOLDER, record
from bundles.reproduction import floors
from gateway.commands.options import branch_option, home_option, output_option, progress
from gateway.output import facts, show


@click.command(context_settings={"ignore_unknown_options": True})
@home_option
@output_option
@click.option("--model", help="Name of the model.  [default: the one in bundle.toml]")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path("model"),
    show_default=True,
    help="The folder that the command writes; it gets it as SNOWGATE_OUTPUT.",
)
@click.option("--data", multiple=True, help="A file or folder of data, or train=PATH, holdout=PATH: declared.")
@click.option("--strict", is_flag=True, help="Pack nothing when a data file was read that is not declared.")
@click.option(
    "--data-in-bundle",
    type=click.IntRange(min=0),
    default=CARRIED_FILE_BYTES_MAX,
    show_default=True,
    metavar="BYTES",
    help="The bundle carries data files of up to so many bytes, 64 MiB of them in all; 0: none.",
)
@click.option("--keep-data", is_flag=True, help="Keep copies of all data files in the home, as `snowgate data add`.")
@click.option("--parameter", multiple=True, help="A parameter k=v that the command line does not show.")
@click.option("--parent", multiple=True, help="A bundle that this one was made from, such as signs@1.")
@branch_option
@click.option(
    "--floor-seeds",
    type=int,
    default=0,
    help="Train so often again, with other seeds, and keep how much the models agree: 2 or more, 3 do.",
)
@click.option("--no-pack", is_flag=True, help="Record only.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def train(
    home: Path,
    output: str,
    model: str | None,
    into: Path,
    data: tuple[str, ...],
    strict: bool,
    data_in_bundle: int,
    keep_data: bool,
    parameter: tuple[str, ...],
    parent: tuple[str, ...],
    branch: str | None,
    floor_seeds: int,
    no_pack: bool,
    command: tuple[str, ...],
) -> None:
    """Run a training command, record what ran on what, and pack what it made as the next version.

    \b
    Examples:
      snowgate train --model signs -- python train.py --seed 1
      snowgate train --floor-seeds 3 -- python train.py --seed 1
    """
    if floor_seeds:
        floors.check_count(floor_seeds)
    parameters = {}
    for one in parameter:
        name, equals, value = one.partition("=")
        if not equals:
            msg = f"--parameter {one}: expected name=value"
            raise RecordingError(msg)
        parameters[name] = value
    wheels = Home(home).make().wheels()
    run = record(
        command,
        output=into,
        data=data,
        parameters=parameters,
        wheels=wheels,
        carried_bytes_max=data_in_bundle,
        strict=strict,
        say=progress,
    )
    seen = ", ".join(f"{one['name']} ({one['authority']})" for one in run["data"]) or "none seen"
    progress(f"trained in {run['seconds']} s; data: {seen}")
    if floor_seeds:
        _measure_floor(Home(home), run, into, floor_seeds)
    if keep_data:
        keep(run["data"], Home(home).make().data())
    if no_pack:
        show(run, output, name="id")
        return
    packed = pack(Home(home), into, model=model, parents=parent, branch=branch, say=progress)
    result = {"digest": packed.digest, "model": packed.model, "version": packed.version}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))


def _measure_floor(home: Home, run: dict[str, Any], into: Path, count: int) -> None:
    recipe = read_recipe(into)
    own = own_environment(home, recipe, progress)
    python = Path(sys.executable) if own is None else own.python
    floor = floors.measure_here(run, into, python, home.policy().types, count, progress)
    progress(f"another seed agrees with this one on {floor.floor:.4f} of the rows at least")
    (into / FOLDER / FLOOR_FILE).write_text(json.dumps(floor.to_json(), indent=2) + "\n")
