"""`snowgate bundle adopt`."""

from pathlib import Path

import click

from bundles.adapters import adopt as adopt_model
from bundles.adapters import bentoml, mlflow
from bundles.home import Home
from gateway.commands.options import home_option, output_option, progress
from gateway.output import facts, show


@click.command()
@home_option
@output_option
@click.argument("source")
@click.option("--model", help="Name of the model.  [default: the one in bundle.toml]")
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder with a bundle.toml and the rows to measure on.  [default: the ones that the model brings]",
)
@click.option("--store", type=click.Path(path_type=Path), help="BentoML's home.  [default: $BENTOML_HOME or ~/bentoml]")
@click.option("--tracking-uri", help="MLflow's tracking server or store, for models:/ and runs:/.")
@click.option("--allow-code", is_flag=True, help="Take pickles and code along, and run them: executable content.")
def adopt(
    home: Path,
    output: str,
    source: str,
    model: str | None,
    recipe: Path | None,
    store: Path | None,
    tracking_uri: str | None,
    allow_code: bool,
) -> None:
    """Pack a model of another tool as a bundle: bentoml:NAME:VERSION, mlflow:FOLDER, mlflow:models:/NAME/VERSION.

    What the tool says about it stands in the provenance as declared. See docs/adapters.md.

    \b
    Examples:
      snowgate bundle adopt bentoml:signs:latest --recipe ./recipe --model signs
      snowgate bundle adopt mlflow:./mlruns/1/models/m-2/artifacts --recipe ./recipe --model signs
      snowgate bundle adopt mlflow:models:/signs/3 --tracking-uri sqlite:///mlflow.db --recipe ./recipe
    """
    tool, _colon, place = source.partition(":")
    if tool not in ("bentoml", "mlflow") or not place:
        raise click.UsageError(f"{source!r}: expected bentoml:NAME:VERSION or mlflow:FOLDER")
    if tool == "bentoml":
        found = bentoml.find(place, store or bentoml.default_store())
    else:
        found = mlflow.find(place, tracking_uri)
    packed = adopt_model(Home(home), found, recipe=recipe, model=model, allow_code=allow_code, say=progress)
    result = {"digest": packed.digest, "model": packed.model, "version": packed.version, "origin": found.uri}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))
