import json
from typing import Any

import pytest

from bundles.errors import CorruptBundle
from bundles.manifest import (
    CODE_TYPE,
    CONFIG_TYPE,
    PATH_ANNOTATION,
    WEIGHT_TYPE,
    Descriptor,
    Manifest,
    media_type_of,
    parse_manifest,
)

DIGEST = f"sha256:{'a' * 64}"
CONFIG = Descriptor(CONFIG_TYPE, f"sha256:{'c' * 64}", 2)


def manifest(*paths: str) -> Manifest:
    """Return a manifest of files that all have the same content."""
    return Manifest(CONFIG, tuple(Descriptor(CODE_TYPE, DIGEST, 1, path) for path in paths))


def document(*paths: str) -> dict[str, Any]:
    """Return a manifest as JSON, to be spoilt."""
    loaded: dict[str, Any] = json.loads(manifest(*paths).to_bytes())
    return loaded


def test_the_bytes_are_canonical_and_come_back() -> None:
    """Parsing and writing again gives the same bytes, hence the same identity."""
    one = Manifest(CONFIG, (Descriptor(WEIGHT_TYPE, DIGEST, 1, "model/ü.bin"),), (("b", "2"), ("c", "3")))
    assert parse_manifest(one.to_bytes()) == one
    assert parse_manifest(one.to_bytes()).digest() == one.digest()


def test_the_identity_covers_path_size_and_digest() -> None:
    """Any change of any file's path, size or content is another bundle."""
    base = Descriptor(CODE_TYPE, DIGEST, 1, "model/a.py")
    others = [
        Descriptor(CODE_TYPE, DIGEST, 1, "model/b.py"),
        Descriptor(CODE_TYPE, DIGEST, 2, "model/a.py"),
        Descriptor(CODE_TYPE, f"sha256:{'b' * 64}", 1, "model/a.py"),
    ]
    identities = {Manifest(CONFIG, (one,)).digest() for one in (base, *others)}
    assert len(identities) == 4


@pytest.mark.parametrize(
    "path",
    [
        "../evil.py",
        "model/../../evil.py",
        "/etc/cron.d/evil",
        "model//a.py",
        "./a.py",
        "model/",
        "",
        "model\\..\\evil.py",
        "model/a\nb.py",
        "model/a\0b.py",
        f"model/{'x' * 256}",
    ],
)
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    """No manifest gets a file written anywhere but below the bundle's own folder."""
    with pytest.raises(CorruptBundle, match="plain relative path") as caught:
        parse_manifest(json.dumps(document(path)).encode())
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("paths", [("model/a", "model/a"), ("model/a", "model/a/b")])
def test_two_files_at_one_place_are_refused(paths: tuple[str, ...]) -> None:
    """Which of the two would be loaded must not depend on the order of unpacking."""
    with pytest.raises(CorruptBundle, match="model/a"):
        parse_manifest(json.dumps(document(*paths)).encode())


def test_a_digest_that_is_a_path_is_refused() -> None:
    """A blob's digest becomes a file name in the store."""
    spoilt = document("model/a")
    spoilt["layers"][0]["digest"] = "sha256:../../keys/home.pem"
    with pytest.raises(CorruptBundle, match="64 hexadecimal digits"):
        parse_manifest(json.dumps(spoilt).encode())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda one: one.pop("layers"), "layers"),
        (lambda one: one.update(layers="all"), "layers"),
        (lambda one: one.update(artifactType="application/pdf"), "application/pdf"),
        (lambda one: one["layers"][0].update(size=-1), "size -1"),
        (lambda one: one["layers"][0]["annotations"].pop(PATH_ANNOTATION), PATH_ANNOTATION),
    ],
)
def test_what_is_no_manifest_says_why(spoil: Any, said: str) -> None:
    """The error names the field that is wrong."""
    spoilt = document("model/a")
    spoil(spoilt)
    with pytest.raises(CorruptBundle, match="manifest") as caught:
        parse_manifest(json.dumps(spoilt).encode())
    assert said in str(caught.value)


def test_bytes_that_are_no_json_are_refused() -> None:
    """Random bytes are no manifest."""
    with pytest.raises(CorruptBundle, match="manifest"):
        parse_manifest(b"\xff\x00")


def test_files_get_the_media_type_of_their_kind() -> None:
    """Registries show weights as weights; what is not known counts as code, the kind that needs the most trust."""
    assert media_type_of("model/w.SAFETENSORS") == WEIGHT_TYPE
    assert media_type_of("model/net.py") == CODE_TYPE
    assert media_type_of("model/Makefile") == CODE_TYPE
