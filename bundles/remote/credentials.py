"""Who we are to a registry: from the environment, or from where `docker login` put it.

Asked for only when the registry asks, and given only to it and to the token server that it names.
"""

import base64
import binascii
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from bundles.errors import RemoteError

USER, PASSWORD = "SNOWGATE_REGISTRY_USER", "SNOWGATE_REGISTRY_PASSWORD"
# A helper asks a keyring, which may ask the user.
HELPER_SECONDS = 60.0
# docker.io is kept under the address of its first version.
_NAMES = {"registry-1.docker.io": "https://index.docker.io/v1/", "docker.io": "https://index.docker.io/v1/"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password, which no error and no log shows."""

    user: str = field(repr=False)
    password: str = field(repr=False)

    def basic(self) -> str:
        """Return the header's value."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find_credentials(host: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return the credentials for a registry, or None. Raises RemoteError when what is there can't be used."""
    if environment.get(USER) and environment.get(PASSWORD):
        return Credentials(environment[USER], environment[PASSWORD])
    folder = environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "/"), ".docker")
    path = Path(folder, "config.json")
    try:
        document = orjson.loads(path.read_bytes())
        helper = document.get("credHelpers", {}).get(host) or document.get("credsStore")
        entry = document.get("auths", {}).get(_NAMES.get(host, host), {})
        if entry.get("auth"):
            user, colon, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            return Credentials(user, password) if colon else None
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError, AttributeError, TypeError, binascii.Error, UnicodeDecodeError) as error:
        # Not the error's own words, which may quote what is secret.
        msg = f"{path}: can't be read as docker's configuration ({type(error).__name__}); docker login writes it anew"
        raise RemoteError(msg) from None
    return _ask(str(helper), _NAMES.get(host, host)) if helper else None


def _ask(helper: str, name: str) -> Credentials | None:
    """Ask docker's credential helper, which knows nobody for most hosts."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=name.encode(), capture_output=True, timeout=HELPER_SECONDS, check=False
        )
        if done.returncode:
            return None
        found: dict[str, Any] = orjson.loads(done.stdout)
        return Credentials(found["Username"], found["Secret"])
    except (OSError, subprocess.TimeoutExpired, orjson.JSONDecodeError, KeyError, TypeError) as error:
        problem = f"which docker's configuration names, did not answer ({type(error).__name__})"
        msg = f"{program}, {problem}; set {USER} and {PASSWORD}"
        raise RemoteError(msg) from None
