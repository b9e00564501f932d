"""`snowgate key`."""

from pathlib import Path

import click

from bundles.errors import HomeError
from bundles.policy_file import inline
from bundles.signing import make_key, public_pem, read_signer
from gateway.commands.bundle_sign import key_option, signer_of
from gateway.commands.options import NounGroup, existing_home, home_option, output_option
from gateway.output import facts, show


@click.group(cls=NounGroup)
def key() -> None:
    """Make keys for people, and show what others need of them."""


@key.command()
@output_option
@click.argument("file", type=click.Path(path_type=Path))
def new(output: str, file: Path) -> None:
    """Make a private key in FILE, readable by you only, and the public key beside it, with the ending .pub.

    \b
    Example:
      snowgate key new ana.pem
    """
    public = file.with_suffix(".pub")
    for path in (file, public):
        if path.exists():
            raise HomeError(f"{path}: is there already, and a key is not written over; give another name")
    try:
        make_key(file)
        signer = read_signer(file)
        public.write_bytes(public_pem(signer.public_key))
    except OSError as error:
        raise HomeError(f"{file}: can't be written: {error.strerror}; give another place") from error
    result = {"key": signer.public_key.keyid, "private": str(file), "public": str(public)}
    result["inline"] = inline(signer.public_key)
    show(result, output, name="key", tell=lambda one: facts(list(one.items())))


@key.command("show")
@home_option
@output_option
@key_option
def show_(home: Path, output: str, key: Path | None) -> None:
    """Show the public half of the home's own key, or of another: for `snowgate bundle trust`, or a policy.

    \b
    Examples:
      snowgate key show
      snowgate key show -o json | jq -r .pem > home.pub
    """
    public = (signer_of(existing_home(home), None) if key is None else read_signer(key)).public_key
    result = {"key": public.keyid, "inline": inline(public), "pem": public_pem(public).decode()}
    show(result, output, name="key", tell=lambda one: facts(list(one.items())))
