import pytest

from bundles.errors import BundleError
from bundles.remote.address import Address, parse_address

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("oci://localhost:5000/signs", Address("oci", "localhost:5000/signs")),
        ("oci://localhost:5000/signs:7", Address("oci", "localhost:5000/signs", "7")),
        ("oci://reg.example.org/a/b:x", Address("oci", "reg.example.org/a/b", "x")),
        (f"oci://[::1]:5000/a@{DIGEST}", Address("oci", "[::1]:5000/a", None, DIGEST)),
        (f"oci://h/a:1@{DIGEST}", Address("oci", "h/a", "1", DIGEST)),
        ("file:///shared/models:prod", Address("file", "file:///shared/models", "prod")),
        ("file:///shared/models/", Address("file", "file:///shared/models")),
        ("s3://bucket:prod", Address("s3", "s3://bucket", "prod")),
        ("s3://bucket/a:b/c", Address("s3", "s3://bucket/a:b/c")),
    ],
)
def test_addresses_are_taken_apart(text: str, address: Address) -> None:
    """A port is no tag, a digest is whole, a folder keeps its scheme; shown again it is the same address."""
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "signs",
        "/shared/models",
        "oci://",
        "oci://host",
        "oci://host/",
        "oci://host/UPPER",
        "oci://host/a:-b",
        "oci://host/a:b c",
        "oci://host/../a",
        "oci://ho st/a",
        "oci://host:port/a",
        "oci://host/a@sha256:abc",
        "oci://host/a\n",
        f"oci://host/{'a' * 300}",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Before anything is asked of anybody, with what was expected."""
    with pytest.raises(BundleError, match=r"expected|letters"):
        parse_address(text)


def test_no_secret_is_shown_or_recorded() -> None:
    """A password in a registry's address is refused without repeating it; in a folder's it is left out."""
    with pytest.raises(BundleError, match="docker login") as caught:
        parse_address("oci://ana:hush@host/a:1")
    assert "hush" not in str(caught.value)
    assert str(parse_address("sftp://ana:hush@host/models?token=hush:1")) == "sftp://host/models:1"
