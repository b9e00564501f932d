import base64
import copy
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import signing
from bundles.errors import BundleError, HomeError, UntrustedBundle
from bundles.signing import Keys

DIGEST, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"

MAKING = """
import sys
from pathlib import Path
from bundles.signing import Keys
print(Keys(Path(sys.argv[1])).signer().public_key.keyid)
"""


def make(keys: Keys, digest: str = DIGEST) -> dict[str, Any]:
    """Sign a statement about a bundle."""
    return signing.sign(digest, "signs", "https://example.org/predicate", {"accuracy": 0.5}, keys.signer())


def repacked(envelope: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change what an envelope claims and keep its signature."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    return envelope | {"payload": base64.b64encode(json.dumps(statement).encode()).decode()}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Return a home's keys."""
    return Keys(tmp_path / "keys")


def test_what_the_home_signs_the_home_trusts(keys: Keys) -> None:
    """The statement comes back, with the id of the key; checking it leaves the envelope as it was."""
    envelope = make(keys)
    before = copy.deepcopy(envelope)
    keyid, statement = signing.verify(envelope, DIGEST, keys.trusted())
    assert keyid == keys.signer().public_key.keyid
    assert statement["predicate"] == {"accuracy": 0.5}
    assert envelope == before


def test_the_private_key_is_its_owners_only(keys: Keys, tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700, from the first moment; and it stays the same key."""
    first = keys.signer().public_key.keyid
    assert stat.S_IMODE((tmp_path / "keys" / "home.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert Keys(tmp_path / "keys").signer().public_key.keyid == first


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    """Six processes ask for a key that is not there yet: all get the same, whole one."""
    command = [sys.executable, "-c", MAKING, str(tmp_path / "keys")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["home.pem"]


def test_a_stranger_counts_when_trusted(keys: Keys, tmp_path: Path) -> None:
    """An unknown signer is refused with what to type; after that was typed, the same envelope is good."""
    stranger = Keys(tmp_path / "elsewhere")
    envelope = make(stranger)
    with pytest.raises(UntrustedBundle, match="snowgate bundle trust") as caught:
        signing.verify(envelope, DIGEST, keys.trusted())
    assert stranger.signer().public_key.keyid[:16] in str(caught.value)
    (tmp_path / "stranger.pub").write_bytes(stranger.public_pem())
    keyid = keys.trust(tmp_path / "stranger.pub")
    assert signing.verify(envelope, DIGEST, keys.trusted())[0] == keyid


def test_a_changed_statement_is_refused(keys: Keys) -> None:
    """The signature is of every byte of the statement."""
    envelope = repacked(make(keys), lambda statement: statement["predicate"].update(accuracy=0.9))
    with pytest.raises(UntrustedBundle, match="altered"):
        signing.verify(envelope, DIGEST, keys.trusted())


def test_a_signature_of_another_bundle_does_not_count(keys: Keys) -> None:
    """A good signature can't be carried over to another bundle, neither as it is nor renamed."""
    envelope = make(keys, OTHER)
    with pytest.raises(UntrustedBundle, match=f"about another bundle, {OTHER}"):
        signing.verify(envelope, DIGEST, keys.trusted())
    renamed = repacked(envelope, lambda one: one["subject"][0]["digest"].update(sha256=DIGEST.removeprefix("sha256:")))
    with pytest.raises(UntrustedBundle, match="altered"):
        signing.verify(renamed, DIGEST, keys.trusted())


def test_a_key_id_is_not_a_key(keys: Keys, tmp_path: Path) -> None:
    """A stranger's signature under the home's key id is refused: ids are claims."""
    envelope = make(Keys(tmp_path / "elsewhere"))
    envelope["signatures"][0]["keyid"] = keys.signer().public_key.keyid
    with pytest.raises(UntrustedBundle):
        signing.verify(envelope, DIGEST, keys.trusted())


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.pop("payload"),
        lambda one: one.pop("signatures"),
        lambda one: one.update(signatures=[]),
        lambda one: one.update(signatures="none"),
        lambda one: one.update(signatures=[{"keyid": "a", "sig": "!"}]),
        lambda one: one.update(payload="%"),
        lambda one: one.update(payload=7),
        lambda one: one.update(payloadType="text/plain"),
        lambda one: one["signatures"][0].update(sig=""),
        lambda one: one["signatures"].append(dict(one["signatures"][0])),
    ],
)
def test_what_is_no_envelope_is_refused(keys: Keys, change: Callable[[dict[str, Any]], None]) -> None:
    """Whatever stands where an envelope should is an untrusted bundle, never another exception."""
    envelope = make(keys)
    change(envelope)
    with pytest.raises(UntrustedBundle, match=DIGEST):
        signing.verify(envelope, DIGEST, keys.trusted())


@pytest.mark.parametrize("content", ["", "hello", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_public_key_is_not_trusted(keys: Keys, tmp_path: Path, content: str) -> None:
    """The file is named, and nothing is added."""
    (tmp_path / "a.pub").write_text(content)
    with pytest.raises(BundleError, match=r"a\.pub"):
        keys.trust(tmp_path / "a.pub")
    assert keys.trusted() == []


def test_looking_at_the_keys_makes_none(keys: Keys, tmp_path: Path) -> None:
    """A home that has signed nothing trusts no key of its own; asking must not write into it."""
    assert keys.trusted() == []
    assert not (tmp_path / "keys").exists()
    with pytest.raises(UntrustedBundle, match="snowgate bundle trust"):
        signing.verify(make(Keys(tmp_path / "stranger")), DIGEST, keys.trusted())


def test_an_envelope_is_good_for_what_it_was_made_for(keys: Keys) -> None:
    """What was signed as one thing does not pass as another, though the key is trusted."""
    envelope = signing.seal(b"{}", "text/a", keys.signer())
    assert signing.unseal(envelope, "text/a", keys.trusted(), "it") == (keys.signer().public_key.keyid, b"{}")
    with pytest.raises(UntrustedBundle, match="text/a"):
        signing.unseal(envelope, "text/b", keys.trusted(), "it")


def test_a_spoilt_home_key_is_said(keys: Keys, tmp_path: Path) -> None:
    """A home key that can't be read is an error with its path; it is not silently made anew."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "home.pem").write_text("not a key")
    with pytest.raises(HomeError, match=r"home\.pem"):
        keys.signer()
