import base64
import json
from pathlib import Path
from typing import Any

import pytest

from bundles.errors import RemoteError
from bundles.remote.credentials import Credentials, find_credentials

AUTH = base64.b64encode(b"ana:hush:hush").decode()


def configured(folder: Path, document: Any) -> dict[str, str]:
    """Write docker's configuration and return the variables that lead to it."""
    (folder / "config.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return {"DOCKER_CONFIG": str(folder)}


def test_they_are_found_where_docker_login_puts_them(tmp_path: Path) -> None:
    """By the registry's host, whole passwords, and for docker.io by its old address."""
    auths = {"reg.example.org:5000": {"auth": AUTH}, "https://index.docker.io/v1/": {"auth": AUTH}, "empty": {}}
    environment = configured(tmp_path, {"auths": auths})
    for host in ("reg.example.org:5000", "docker.io", "registry-1.docker.io"):
        assert find_credentials(host, environment) == Credentials("ana", "hush:hush")
    for host in ("reg.example.org", "empty"):
        assert find_credentials(host, environment) is None


def test_the_environment_wins(tmp_path: Path) -> None:
    """In CI there is no docker login; half of a pair is none."""
    environment = configured(tmp_path, {"auths": {"h": {"auth": AUTH}}})
    given = {"SNOWGATE_REGISTRY_USER": "ci", "SNOWGATE_REGISTRY_PASSWORD": "key"}
    assert find_credentials("h", environment | given) == Credentials("ci", "key")
    assert find_credentials("h", environment | {"SNOWGATE_REGISTRY_USER": "ci"}) == Credentials("ana", "hush:hush")
    assert find_credentials("h", {"DOCKER_CONFIG": str(tmp_path / "nowhere")}) is None


def test_a_credential_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Desktops keep passwords in a keyring, behind a program; one that fails is named, without what it said."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "docker-credential-test"
    program.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"ana\\", \\"Secret\\": \\"of $host\\"}"\n')
    program.chmod(0o755)
    environment = configured(tmp_path, {"credsStore": "test", "credHelpers": {"other": "missing"}})
    assert find_credentials("h", environment) == Credentials("ana", "of h")
    with pytest.raises(RemoteError, match=r"docker-credential-missing.*SNOWGATE_REGISTRY_USER"):
        find_credentials("other", environment)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert find_credentials("h", environment) is None
    program.write_text("#!/bin/sh\necho hush\n")
    with pytest.raises(RemoteError, match="did not answer") as caught:
        find_credentials("h", environment)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("document", ["{", "[]", '{"auths": 7}', '{"auths": {"h": {"auth": "hush!"}}}'])
def test_a_spoilt_configuration_is_named_and_not_quoted(tmp_path: Path, document: str) -> None:
    """What is wrong with docker's file is said without a word of what is in it."""
    with pytest.raises(RemoteError, match=r"config\.json: can't be read as docker's configuration") as caught:
        find_credentials("h", configured(tmp_path, document))
    assert "hush" not in str(caught.value)


def test_nothing_shows_them() -> None:
    """A traceback or a log line with them in it has no password."""
    assert repr(Credentials("ana", "hush")) == "Credentials()"
