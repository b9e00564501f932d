"""The policy and the proposals on a running gateway: what is refused does not serve, what is merged does."""

from collections.abc import Callable
from pathlib import Path

from bundles.home import Home
from bundles.packing import pack
from bundles.policy_file import inline
from bundles.signing import make_key, public_pem, read_signer
from tests.conftest import Gateway, snowgate, wait_until, write_model

POLICY = """
[keys.home]
key = "{home}"
roles = ["trainer"]
executes = ["code"]

[keys.ben]
key = "../ben.pub"
roles = ["approver"]

[environments.production]
trained = true
approved = 1
"""


def version_of(gateway: Gateway) -> str:
    """Ask the gateway something, and return the version that answered."""
    status, document, _headers = gateway.call(values=[1.0, 2.0, 3.0])
    assert status == 200, document
    return str(document["model_version"])


def test_a_merge_reaches_the_running_gateway(start: Callable[..., Gateway], tmp_path: Path) -> None:
    """Deployed without an approval it is refused, and version 1 goes on; proposed, approved and merged it answers."""
    home = Home(tmp_path / "home").make()
    pack(home, write_model(tmp_path / "one"), model="signs")
    snowgate(home.path, "deploy", "signs@1")
    gateway = start(home.path)
    pack(home, write_model(tmp_path / "two", sign=2.0), model="signs", branch="ana")
    key = tmp_path / "ben.pem"
    make_key(key)
    key.with_suffix(".pub").write_bytes(public_pem(read_signer(key).public_key))
    (home.path / "policy.toml").write_text(POLICY.format(home=inline(home.keys().signer().public_key)))

    snowgate(home.path, "deploy", "signs@2", "--wait", status=3)
    refused = snowgate(home.path, "rollout", "status", "signs", status=3)
    assert refused["phase"] == "Degraded"
    assert "approved: 0 of 1 approvers" in refused["message"]
    assert "snowgate bundle sign signs@2 --role approved --to production" in refused["message"]
    assert "version 1 keeps all traffic" in refused["message"]
    assert version_of(gateway) == "1"
    snowgate(home.path, "deploy", "signs@1", "--wait")

    server = ("--server", gateway.control)
    opened = snowgate(home.path, "proposal", "open", "signs@ana", "--text", "twice as sure", *server)
    name = opened["id"]
    assert "approved" in snowgate(home.path, "proposal", "merge", name, *server, status=1)
    reviewed = snowgate(home.path, "proposal", "review", name, "--approve", "--key", str(key), *server)
    assert reviewed["mergeable"]
    merged = snowgate(home.path, "proposal", "merge", name, "--wait", *server)
    assert merged["state"] == "merged"
    wait_until(lambda: version_of(gateway) == "2", what="version 2 answers")

    shown = snowgate(home.path, "bundle", "show", "signs@2")
    assert f"proposal {name}" in shown["refs"]
    assert snowgate(home.path, "proposal", "list") == []
