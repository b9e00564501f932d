"""The keys of a gateway: those that clients show, and the one under which units are hashed."""

import os
import secrets
from hashlib import blake2b, sha256
from pathlib import Path

from bundles.home import Home
from gateway.settings import Settings


def unit_key_file(home: Home) -> Path:
    """Return the file of the key under which units are hashed in the log (hexadecimal), made at first use.

    Workers read it themselves: on their command line everybody on the machine could.
    """
    path = home.path / "keys" / "unit.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def read_unit_key(file: Path) -> bytes:
    """Read the key under which units are hashed."""
    return bytes.fromhex(file.read_text())


def unit_hash(unit: str, key: bytes) -> int:
    """Hash a unit: the log tells units apart, and without the key nobody can tell who they are.

    Of 56 bits, which a signed column of 64 holds. Among a million units two have the same one with a probability of one
    in a hundred thousand.
    """
    return int.from_bytes(blake2b(unit.encode(), key=key, digest_size=7).digest(), "little")


def key_digests(settings: Settings) -> list[str] | None:
    """Return the digests of the API keys in the key file; None when there is none."""
    if settings.server.api_keys_file is None:
        return None
    lines = [line.strip() for line in settings.server.api_keys_file.read_text().splitlines()]
    return [sha256(line.encode()).hexdigest() for line in lines if line and not line.startswith("#")]
