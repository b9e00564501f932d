"""`snowgate bundle card` and `snowgate bundle sbom`."""

import json
from pathlib import Path

import click

from bundles.bundle import Bundle, open_bundle
from bundles.card import card
from bundles.sbom import sbom
from gateway.commands.options import existing_home, home_option, output_option
from gateway.output import show


@click.command("card")
@home_option
@output_option
@click.argument("reference")
def card_(home: Path, output: str, reference: str) -> None:
    """Print the model card: what a person reads first, made of the facts that the bundle holds.

    \b
    Example:
      snowgate bundle card signs@production > MODEL_CARD.md
    """
    bundle, version = _opened(home, reference)
    found = {"digest": bundle.digest, "card": card(bundle, version)}
    show(found, output, name="digest", tell=lambda one: click.echo(one["card"], nl=False))


@click.command("sbom")
@home_option
@output_option
@click.argument("reference")
def sbom_(home: Path, output: str, reference: str) -> None:
    """Print the bill of materials: model, files, packages and data as CycloneDX 1.6, which is JSON.

    \b
    Example:
      snowgate bundle sbom signs@production > signs.cdx.json
    """
    bundle, version = _opened(home, reference)
    show(sbom(bundle, version), output, name="serialNumber", tell=lambda one: click.echo(json.dumps(one, indent=2)))


def _opened(home: Path, reference: str) -> tuple[Bundle, str | None]:
    opened = existing_home(home)
    digest, _model, version = opened.refs().resolve(reference)
    return open_bundle(opened.store(), digest), version
