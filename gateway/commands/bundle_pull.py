"""`snowgate bundle pull`."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from bundles.errors import UntrustedBundle
from bundles.home import Home
from bundles.loading import check_trust
from bundles.remote.address import parse_address
from bundles.remote.place import open_place
from bundles.remote.transfer import Arrived, accept, find, receive
from gateway.commands.bundle_push import insecure_option
from gateway.commands.options import actor, home_option, output_option, progress
from gateway.output import facts, show


@click.command()
@home_option
@output_option
@insecure_option
@click.argument("source")
def pull(home: Path, output: str, insecure: bool, source: str) -> None:
    """Get a bundle, with the statements about it, from an OCI registry or a folder: only what is missing here.

    Every byte is hashed as it comes. The bundle gets the next version of its model in this home; one that is here
    already keeps its version. It is untrusted until this home trusts a key that signed it.

    \b
    Examples:
      snowgate bundle pull oci://registry.example.org/team/signs:7
      snowgate bundle pull s3://bucket/models:production -o json
      snowgate bundle pull oci://localhost:5000/signs@sha256:5f0c…
    """
    opened = Home(home).make()
    address = parse_address(source)
    there = open_place(address, os.environ, insecure=insecure, writing=False)
    digest = address.digest or find(there, str(address), address.tag)
    arrived = receive(opened, there, digest, say=progress)
    enter(opened, arrived, str(address), output)


def enter(home: Home, arrived: Arrived, origin: str, output: str) -> None:
    """Put a bundle that has arrived into the home, show it, and say what to type if it is not trusted here."""
    version = accept(home, arrived, origin=origin, actor=actor())
    digest, model = arrived.bundle.digest, arrived.bundle.model
    try:
        trust, problem = check_trust(home.store(), digest, home.policy()), None
    except UntrustedBundle as error:
        trust, problem = None, str(error)
    result = {
        "digest": digest,
        "model": model,
        "version": version,
        "origin": origin,
        "trusted": problem is None,
        "trust": trust,
        **asdict(arrived.moved),
    }
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))
    if problem is not None:
        progress(f"not trusted here, so it is not served: {problem}")
