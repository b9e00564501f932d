"""`snowgate train`."""

from pathlib import Path

import click

from bundles.data import CARRIED_FILE_BYTES_MAX, keep
from bundles.errors import RecordingError
from bundles.home import Home
from bundles.packing import pack
from bundles.recording import record
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
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="A data file, if it can't be observed.")
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
@click.option("--no-pack", is_flag=True, help="Record only.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def train(
    home: Path,
    output: str,
    model: str | None,
    into: Path,
    data: tuple[Path, ...],
    data_in_bundle: int,
    keep_data: bool,
    parameter: tuple[str, ...],
    parent: tuple[str, ...],
    branch: str | None,
    no_pack: bool,
    command: tuple[str, ...],
) -> None:
    """Run a training command, record what ran on what, and pack what it made as the next version.

    \b
    Example:
      snowgate train --model signs -- python train.py --seed 1
    """
    parameters = {}
    for one in parameter:
        name, equals, value = one.partition("=")
        if not equals:
            msg = f"--parameter {one}: expected name=value"
            raise RecordingError(msg)
        parameters[name] = value
    run = record(command, output=into, data=data, parameters=parameters, carried_bytes_max=data_in_bundle, say=progress)
    seen = ", ".join(f"{one['name']} ({one['authority']})" for one in run["data"]) or "none seen"
    progress(f"trained in {run['seconds']} s; data: {seen}")
    if keep_data:
        keep(run["data"], Home(home).make().data())
    if no_pack:
        show(run, output, name="id")
        return
    packed = pack(Home(home), into, model=model, parents=parent, branch=branch, say=progress)
    result = {"digest": packed.digest, "model": packed.model, "version": packed.version}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))
