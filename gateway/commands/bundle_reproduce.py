"""`snowgate bundle reproduce`."""

from pathlib import Path
from typing import Any

import click

from bundles.reproduction.reproduce import Changes, reproduce
from bundles.reproduction.words import PASSED
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.output import facts, show

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("reproduce")
@home_option
@output_option
@click.option("--floor-seeds", type=int, default=0, help="Measure the floor here, with so many other seeds.")
@click.option("--data-from", metavar="PLACE", help="A home, folder or URL that has the data, as for `data fetch`.")
@click.option("--with-packages", type=FILE, help="A requirements file that takes the place of the recorded lock.")
@click.option("--python", help="Another version of Python, such as 3.12.")
@click.option("--seed", help="Another seed: short for --parameter seed=N.")
@click.option("--parameter", multiple=True, metavar="NAME=VALUE", help="Another value for an option of the command.")
@click.option("--data", multiple=True, metavar="NAME=PATH", help="Another file in the place of one that the run read.")
@click.option("--source", type=FOLDER, help="A folder with other code.")
@click.option("--timeout", type=float, help="Seconds that a run may take.  [default: ten times the recorded, or 600]")
@click.argument("reference")
@click.pass_context
def reproduce_(
    context: click.Context,
    home: Path,
    output: str,
    floor_seeds: int,
    data_from: str | None,
    with_packages: Path | None,
    python: str | None,
    seed: str | None,
    parameter: tuple[str, ...],
    data: tuple[str, ...],
    source: Path | None,
    timeout: float | None,
    reference: str,
) -> None:
    """Train a bundle again, from its own code, data and lock, confined, and say how close the second model is.

    The verdict is identical, numerically-equal, equivalent (exit code 0), different or data-lost (1), and is signed
    and kept beside the bundle. What --seed, --parameter, --data and --source change makes a rehearsal of it.

    \b
    Examples:
      snowgate bundle reproduce signs@production
      snowgate bundle reproduce signs@7 --floor-seeds 3 -o json
      snowgate bundle reproduce signs@7 --with-packages requirements/newest.txt --python 3.12
    """
    parameters = dict(_pair("--parameter", one) for one in parameter) | ({} if seed is None else {"seed": seed})
    changes = Changes(
        packages=with_packages,
        python=python,
        parameters=parameters,
        data={name: _file(name, path) for name, path in (_pair("--data", one) for one in data)},
        source=source,
    )
    result = reproduce(
        existing_home(home),
        reference,
        changes=changes,
        floor_seeds=floor_seeds,
        data_from=data_from,
        timeout=timeout,
        say=progress,
    )
    show(result, output, name="verdict", tell=_tell)
    context.exit(0 if result["verdict"] in PASSED else 1)


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        msg = f"{option} {text}: expected NAME={'PATH' if option == '--data' else 'VALUE'}"
        raise click.UsageError(msg)
    return name, value


def _file(name: str, path: str) -> Path:
    if not Path(path).is_file():
        msg = f"--data {name}={path}: no such file"
        raise click.UsageError(msg)
    return Path(path).absolute()


def _tell(one: dict[str, Any]) -> None:
    environment, metrics = one["environment"], one["metrics"]
    moved = [f"{name} {before} → {after or 'gone'}" for name, (before, after) in environment.get("moved", {}).items()]
    changes = [
        f"{name} {value:.4g} → {metrics['after'][name]:.4g}"
        for name, value in metrics["before"].items()
        if name in metrics["after"]
    ]
    low, high = one["interval"] or (None, None)
    facts(
        [
            ("verdict", f"{one['verdict']}{' (a rehearsal)' if one['kind'] == 'rehearsal' else ''}"),
            ("because", one["reason"]),
            ("cause", one["cause"]),
            ("bundle", f"{one['model']}@{one['version']}   {one['digest']}"),
            ("agreement", one["agreement"]),
            ("interval", None if low is None else f"{low:.4f} … {high:.4f}, of {one['rows']} rows"),
            ("floor", one["floor"]),
            ("margin", one["margin"]),
            ("difference", one["max_difference"]),
            ("metrics", changes),
            ("environment", f"Python {environment['python']}, {environment['packages']} packages"),
            ("moved", moved),
            ("left out", environment.get("left_out")),
            ("not pinned", environment.get("unpinned")),
            ("seconds", one["seconds"]),
        ]
    )
