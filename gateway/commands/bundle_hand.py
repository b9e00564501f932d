"""`snowgate bundle hand`."""

from pathlib import Path

import click

from bundles.adapters import bentoml
from bundles.bundle import open_bundle
from gateway.commands.options import existing_home, home_option, output_option
from gateway.output import facts, show


@click.command()
@home_option
@output_option
@click.argument("reference")
@click.argument("target")
@click.option("--store", type=click.Path(path_type=Path), help="BentoML's home.  [default: $BENTOML_HOME or ~/bentoml]")
def hand(home: Path, output: str, reference: str, target: str, store: Path | None) -> None:
    """Hand a bundle's model over to another tool: bentoml:NAME:VERSION, a model in BentoML's store.

    The model's files are there as they are in the bundle, with its manifest; the label `bundle` names its digest.

    \b
    Example:
      snowgate bundle hand signs@7 bentoml:signs:7
    """
    tool, _colon, tag = target.partition(":")
    if tool != "bentoml" or ":" not in tag:
        raise click.UsageError(f"{target!r}: expected bentoml:NAME:VERSION")
    opened = existing_home(home)
    digest, _model, _version = opened.refs().resolve(reference)
    folder = bentoml.hand(open_bundle(opened.store(), digest), tag, store or bentoml.default_store())
    result = {"digest": digest, "tag": tag, "path": str(folder)}
    show(result, output, name="tag", tell=lambda one: facts(list(one.items())))
