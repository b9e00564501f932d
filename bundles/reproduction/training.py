"""A recorded run, ready to be made again, as often as wanted: each time in a fresh folder, each time a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles.errors import CommandFailed
from bundles.reproduction import rerun
from bundles.reproduction.models import Model, of_output


@dataclass(frozen=True, slots=True)
class Training:
    """What to run, and with what.

    `code` is the folder to copy, `data` are files by the names of the run's record.
    With a `python` the run is confined to that environment; without, it is made as whoever is here would make it.
    """

    run: Mapping[str, Any]
    code: Path
    data: Mapping[str, Path]
    model: str
    types: Sequence[str]
    python: Path | None
    seconds: float

    def again(self, parameters: Mapping[str, str], scratch: Path) -> tuple[Model, dict[str, str]]:
        """Run it with these parameters, in a folder to be made; return the model, and what the run was confined by.

        Raises:
            CommandFailed: the command failed.
            RecipeError: it did not write what can be packed.
            ReproductionError: it can't be started, or took too long.
        """
        place = rerun.lay_out(scratch / "run", self.code, self.run, self.data)
        command = rerun.command_of(self.run, parameters, place, self.python)
        if self.python is None:
            ran = rerun.run_here(command, place, self.seconds)
        else:
            ran = rerun.run_confined(command, place, self.run, self.python, self.seconds)
        if ran.status != 0:
            how = f"ended by signal {-ran.status}" if ran.status < 0 else f"exit status {ran.status}"
            raise CommandFailed(f"the command failed, {how}: {ran.said}", ran.status)
        return of_output(place.output, scratch / "model", self.model, self.types), ran.confined
