"""`snowgate bundle push`."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from bundles.errors import BundleError
from bundles.remote.address import parse_address
from bundles.remote.place import open_place
from bundles.remote.transfer import push as push_bundle
from gateway.commands.options import existing_home, home_option, output_option, progress
from gateway.output import facts, show

insecure_option = click.option("--insecure", is_flag=True, help="Speak http to a registry on another machine.")


@click.command()
@home_option
@output_option
@insecure_option
@click.option("--replace", is_flag=True, help="Move the tag when it names another bundle there.")
@click.argument("reference")
@click.argument("destination")
def push(home: Path, output: str, insecure: bool, replace: bool, reference: str, destination: str) -> None:
    """Send a bundle, with the statements about it, to an OCI registry or to a folder: only what is missing there.

    DESTINATION is oci://host:port/repository:tag, or the URL of a folder, as file:///shared/models:tag or
    s3://bucket/models:tag. Without a tag it is the version. Credentials come from docker's config.json, or
    SNOWGATE_REGISTRY_USER and SNOWGATE_REGISTRY_PASSWORD.

    \b
    Examples:
      snowgate bundle push signs@7 oci://registry.example.org/team/signs
      snowgate bundle push signs@production file:///shared/models:production --replace
    """
    opened = existing_home(home)
    address = parse_address(destination)
    digest, model, version = opened.refs().resolve(reference)
    tag = address.tag or version
    if address.digest not in (None, digest) or tag is None:
        msg = f"{address}: {reference} is {digest}; expected an address with a tag and without another digest"
        raise BundleError(msg)
    there = open_place(address, os.environ, insecure=insecure, writing=True)
    moved = push_bundle(opened.store(), digest, there, tag, replace=replace, say=progress)
    address = parse_address(f"{address.scheme}://{address.place.removeprefix(address.scheme + '://')}:{tag}")
    result = {"digest": digest, "model": model, "version": version, "destination": str(address), **asdict(moved)}
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))
    progress(f"to get it: snowgate bundle pull {address}")
