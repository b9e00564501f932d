import json
from datetime import date
from pathlib import Path

import pytest

from bundles.errors import PolicyError
from bundles.home import Home
from bundles.policy_file import inline, read_policy, schema
from bundles.signing import Keys
from tests.test_tidy import ROOT

POLICY = """
[keys.ana]
key = "ana.pub"
roles = ["trainer"]
executes = ["code", "pickle"]
expires = 2027-06-30

[keys.ben]
key = "{ben}"
roles = ["approver", "tester"]

[environments.staging]

[environments.production]
trained = true
tested = 1
reproduced = "equivalent"
approved = 2
"""


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Path:
    """A policy with two keys, one in a file and one in the line itself."""
    (tmp_path / "ana.pub").write_bytes(Keys(tmp_path / "ana").public_pem())
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.format(ben=inline(Keys(tmp_path / "ben").signer().public_key)))
    return path


def test_a_policy_is_read(written: Path, tmp_path: Path) -> None:
    """Keys by name, from a file and from the line; what is left out asks for nothing and allows nothing."""
    policy = read_policy(written)
    ana, ben = policy.keys
    assert (ana.name, ana.key.keyid) == ("ana", Keys(tmp_path / "ana").signer().public_key.keyid)
    assert (set(ana.roles), set(ana.executes), ana.expires) == ({"trainer"}, {"code", "pickle"}, date(2027, 6, 30))
    assert ben.key.keyid == Keys(tmp_path / "ben").signer().public_key.keyid
    assert (set(ben.roles), set(ben.executes), ben.expires) == ({"approver", "tester"}, set(), None)
    assert policy.environments is not None
    assert policy.environments["staging"].approved == 0
    assert policy.environments["production"].reproduced == "equivalent"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[keys", "is not TOML"),
        ('[keys.ana]\nkey = "nowhere.pub"', "keys.ana.key"),
        ('[keys.ana]\nkey = "ed25519:12"', "expected ed25519: and 64 hexadecimal digits"),
        ('[keys.ana]\nkey = "ed25519:xyz"', "expected ed25519: and 64 hexadecimal digits"),
        ('[keys.ana]\nkey = "ana.pub"\nrole = ["trainer"]', "keys.ana.role"),
        ('[keys.ana]\nkey = "ana.pub"\nroles = ["king"]', "keys.ana.roles.0 = 'king'"),
        ('[keys.ana]\nkey = "ana.pub"\nexpires = "soon"', "keys.ana.expires"),
        ('[keys.ana]\nkey = "ana.pub"\n[keys.twin]\nkey = "ana.pub"', "keys.ana and keys.twin are the same key"),
        ("[environments.production]\naproved = 1", "environments.production.aproved: no key of a policy"),
        ("[environments.production]\napproved = -1", "greater than or equal to 0"),
        ('[environments.production]\nreproduced = "nearly"', "environments.production.reproduced"),
        ('[environments."a/b"]', "environments.a/b"),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(written: Path, text: str, said: str) -> None:
    """What is wrong is named with the file and the place in it: a policy that is half understood is none."""
    written.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read_policy(written)
    assert said in str(caught.value)
    assert str(written) in str(caught.value)


def test_a_private_key_in_the_place_of_a_public_one_is_refused(written: Path, tmp_path: Path) -> None:
    """A key file of another kind says what it is."""
    written.write_text('[keys.ana]\nkey = "ana/home.pem"')
    Keys(tmp_path / "ana").signer()
    with pytest.raises(PolicyError, match="not a public key in PEM form"):
        read_policy(written)


def test_a_home_without_a_file_trusts_as_ever(tmp_path: Path) -> None:
    """Its own key and those that were trusted may do everything, and nothing is asked for."""
    home = Home(tmp_path / "home").make()
    assert home.policy().keys == ()
    home.keys().signer()
    (tmp_path / "ben.pub").write_bytes(Keys(tmp_path / "ben").public_pem())
    home.keys().trust(tmp_path / "ben.pub")
    policy = home.policy()
    assert next(one.name for one in policy.keys) == "home"
    assert len(policy.keys) == 2
    assert policy.environments is None
    assert all(one.roles == {"trainer", "tester", "reproducer", "approver"} for one in policy.keys)


def test_the_policy_of_a_home_lies_in_it_or_where_it_is_said_to(written: Path, tmp_path: Path) -> None:
    """`policy.toml` in the folder counts by itself; one that was named must be there."""
    home = Home(tmp_path / "home").make()
    assert Home(home.path, written).policy().place == str(written)
    with pytest.raises(PolicyError, match="can't be read"):
        Home(home.path, tmp_path / "nowhere.toml").policy()
    (home.path / "policy.toml").write_text("[environments.production]\n")
    assert home.policy().keys == ()
    assert home.policy().environments is not None


def test_the_published_schema_is_the_one_that_is_checked() -> None:
    """docs/policy.schema.json is what the reader uses; `snowgate policy schema` prints it."""
    assert json.loads((ROOT / "docs" / "policy.schema.json").read_text()) == schema()
