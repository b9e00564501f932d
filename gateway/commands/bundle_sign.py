"""`snowgate bundle sign`."""

from pathlib import Path
from typing import get_args

import click
from securesystemslib.signer._crypto_signer import CryptoSigner

from bundles.home import Home
from bundles.signing import read_signer
from gateway.commands.options import actor, home_option, output_option, policed_home, policy_option, together_here
from gateway.output import facts, show
from gateway.vouching import Word

key_option = click.option(
    "--key", type=click.Path(path_type=Path), help="Private key (PEM) to sign with.  [default: the home's own]"
)


@click.command()
@home_option
@output_option
@policy_option
@click.argument("reference")
@click.option("--role", "word", type=click.Choice(get_args(Word)), required=True, help="What is said of it.")
@click.option("--to", "environment", default="production", show_default=True, help="Of a review: for what.")
@click.option("--comment", default="", help="Why, in a sentence.")
@key_option
def sign(
    home: Path,
    output: str,
    policy_file: Path | None,
    reference: str,
    word: Word,
    environment: str,
    comment: str,
    key: Path | None,
) -> None:
    """Sign a word about a bundle: tested, failed, approved, rejected; or trained, to vouch for its making.

    \b
    Examples:
      snowgate bundle sign signs@8 --role tested --comment "all of last week, replayed"
      snowgate bundle sign signs@8 --role approved --to production --key ben.pem
    """
    opened = policed_home(home, policy_file)
    with together_here(home, policy_file) as work:
        result = work.sign(
            reference, word, signer_of(opened, key), environment=environment, comment=comment, actor=actor()
        )
    show(result, output, name="digest", tell=lambda one: facts(list(one.items())))


def signer_of(home: Home, key: Path | None) -> CryptoSigner:
    """Return the key that was named, or the home's own. Raises HomeError."""
    return home.keys().signer() if key is None else read_signer(key)
