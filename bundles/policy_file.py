"""`policy.toml`, outside of the store: whose words count, and what each environment asks for.

Without a file the home's own key and those that `snowgate bundle trust` took in may do everything, and no environment
asks for anything. With one, only the keys that it names count. Its schema is `docs/policy.schema.json`.
"""

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.signer._key import SSlibKey

from bundles.content import Kind
from bundles.errors import BundleError, PolicyError
from bundles.policy import Demands, Policy, PolicyKey, Reproduced, Role
from bundles.refs import NAME
from bundles.signing import Keys, public_key

FILE = "policy.toml"
INLINE = "ed25519:"
FILE_BYTES_MAX = 1024 * 1024
"""A key takes some 150 bytes: this is thousands of people."""
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Table(BaseModel):
    """One table of the file; an unknown key is an error, because a misspelt demand would ask for nothing."""

    model_config = ConfigDict(extra="forbid")


class KeyTable(Table):
    """A key: whose it is stands in the table's name."""

    key: str = Field(description="A file with the public key (PEM), relative to this one, or ed25519:<64 hex digits>.")
    roles: list[Role] = Field(default=[], description="In which roles its words count.")
    executes: list[Kind] = Field(
        default=[], description="Kinds of executable content that it may bring in by signing the provenance."
    )
    expires: date | None = Field(default=None, description="The last day on which its words count, in UTC.")


class EnvironmentTable(Table):
    """What an environment asks for."""

    trained: bool = Field(default=False, description="A trainer signed the provenance.")
    tested: int = Field(default=0, ge=0, le=100, description="So many testers signed that a test passed.")
    reproduced: Reproduced | None = Field(default=None, description="A reproducer's verdict is at least this.")
    approved: int = Field(
        default=0, ge=0, le=100, description="So many approvers, none of them the trainer, approved it for this base."
    )


class PolicyDocument(Table):
    """The whole file."""

    keys: dict[Name, KeyTable] = Field(default={}, description="Keys by the name that verdicts call them.")
    environments: dict[Name, EnvironmentTable] = Field(
        default={}, description="Environments by name; one that is not named lets nothing in."
    )
    types: list[str] = Field(default=[], description="Types of which a model in the skops format may be made.")


def home_policy(keys: Keys) -> Policy:
    """Return what holds without a file. Raises BundleError: a key can't be read."""
    named = tuple(PolicyKey(name, key) for name, key in keys.named().items())
    return Policy(named, types=tuple(keys.trusted_types()))


def read_policy(path: Path) -> Policy:
    """Read a policy. Raises PolicyError, naming the file, the place in it, and what was expected."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise PolicyError(f"{path}: {path.stat().st_size} bytes, expected at most {FILE_BYTES_MAX}")
        document = PolicyDocument.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}; name another with --policy-file, or put it there"
        raise PolicyError(msg) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise PolicyError(f"{path}: {place}: no key of a policy; `snowgate policy schema` lists all") from None
        raise PolicyError(f"{path}: {place} = {first['input']!r}: {first['msg']}") from None
    keys = tuple(
        PolicyKey(name, _key(path, name, one.key), frozenset(one.roles), frozenset(one.executes), one.expires)
        for name, one in document.keys.items()
    )
    _check_once(path, keys)
    environments = {name: Demands(**one.model_dump()) for name, one in document.environments.items()}
    return Policy(keys, environments, str(path), tuple(document.types))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return PolicyDocument.model_json_schema()


def inline(key: SSlibKey) -> str:
    """Write a public key as the file takes it in a line."""
    return f"{INLINE}{key.keyval['public']}"


def _key(path: Path, name: str, text: str) -> SSlibKey:
    place = f"{path}: keys.{name}.key"
    if not text.startswith(INLINE):
        try:
            return public_key(path.parent / text)
        except BundleError as error:
            raise PolicyError(f"{place}: {error}; or write {INLINE}<64 hexadecimal digits>") from error
    try:
        return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.removeprefix(INLINE))))
    except ValueError as error:
        raise PolicyError(f"{place} = {text!r}: {error}; expected {INLINE} and 64 hexadecimal digits") from error


def _check_once(path: Path, keys: tuple[PolicyKey, ...]) -> None:
    """One key under two names would be counted twice."""
    names: dict[str, str] = {}
    for one in keys:
        other = names.setdefault(one.key.keyid, one.name)
        if other != one.name:
            raise PolicyError(f"{path}: keys.{other} and keys.{one.name} are the same key; name it once")
