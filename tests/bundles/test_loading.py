import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import signing
from bundles.errors import CorruptBundle, UntrustedBundle
from bundles.home import Home
from bundles.loading import check_trust, prepare
from bundles.manifest import CODE_TYPE, CONFIG_TYPE, PATH_ANNOTATION, Manifest
from bundles.packing import pack
from bundles.provenance import PREDICATE_TYPE
from bundles.recording import record
from bundles.signing import Keys
from bundles.statements import TEST_RESULT, VERDICT

TRAIN = """\
import os, shutil, sys
from pathlib import Path
for name in ("bundle.toml", "divider.py", "weights.npy", "holdout.npz"):
    shutil.copy(name, Path(os.environ["SNOWGATE_OUTPUT"]) / name)
print("trained")
"""


@pytest.fixture(name="signed")
def _signed(home: Home, project: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Home, str]:
    """A home with a bundle that has every kind of blob: it was trained under the recorder."""
    (project / "train.py").write_text(TRAIN)
    monkeypatch.chdir(project)
    record(["python", "train.py", "--seed", "1"], output=project.parent / "out", say=lambda _text: None)
    return home, pack(home, project.parent / "out").digest


def blobs(home: Home, digest: str) -> Iterator[tuple[str, str]]:
    """Yield name and digest of every blob that stands behind a bundle: files, manifest, configuration, signature."""
    manifest = home.store().manifest(digest)
    yield "manifest", digest
    yield "config.json", manifest.config.digest
    seen = set()
    for path, descriptor in manifest.files().items():
        if descriptor.digest not in seen:  # A file that was read and packed is one blob of two paths.
            yield path, descriptor.digest
        seen.add(descriptor.digest)
    for entry in json.loads((home.path / "bundles" / "index.json").read_text())["manifests"]:
        if entry.get("annotations"):
            yield "attestation manifest", entry["digest"]
            document = json.loads(blob(home, entry["digest"]).read_text())
            yield "attestation", document["layers"][0]["digest"]
            yield "attestation config", document["config"]["digest"]


def blob(home: Home, digest: str) -> Path:
    """Return a blob's file."""
    return home.path / "bundles" / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_a_flipped_byte_anywhere_is_refused_with_the_file_named(signed: tuple[Home, str], tmp_path: Path) -> None:
    """Every blob in the store in turn, first, middle and last byte: its path and its blob's file are in the error."""
    home, digest = signed
    seen = set()
    for number, (name, content) in enumerate(list(blobs(home, digest))):
        file = blob(home, content)
        good = file.read_bytes()
        for position in {0, len(good) // 2, len(good) - 1}:
            bad = bytearray(good)
            bad[position] ^= 0x20
            file.write_bytes(bad)
            with pytest.raises(CorruptBundle) as caught:
                prepare(home.store(), digest, home.policy(), tmp_path / f"{number}-{position}")
            assert str(caught.value).startswith(f"{name} is altered")
            assert caught.value.path == name
            assert str(file) in str(caught.value)
        file.write_bytes(good)
        seen.add(file.name)
    assert seen == {path.name for path in (home.path / "bundles" / "blobs" / "sha256").iterdir()}, (
        "no blob was left out"
    )
    kinds = {"manifest", "config.json", "attestation", "model/weights.npy", "run/run.json", "code/source.tar"}
    assert kinds <= {name for name, _content in blobs(home, digest)}
    prepare(home.store(), digest, home.policy(), tmp_path / "good")


def test_a_missing_blob_is_refused_with_the_file_named(signed: tuple[Home, str], tmp_path: Path) -> None:
    """Every blob in turn: what is missing is named; nothing that could be run is left in the target."""
    home, digest = signed
    for name, content in list(blobs(home, digest))[1:]:
        file = blob(home, content)
        file.rename(tmp_path / "away")
        with pytest.raises(CorruptBundle, match=f"{name} is missing"):
            prepare(home.store(), digest, home.policy(), tmp_path / "unpacked")
        assert not (tmp_path / "unpacked").exists()
        (tmp_path / "away").rename(file)


def test_what_is_unpacked_is_what_was_packed(signed: tuple[Home, str], tmp_path: Path) -> None:
    """Configuration, golden examples, the model's files, nothing else; changing them changes nothing in the store."""
    home, digest = signed
    prepare(home.store(), digest, home.policy(), tmp_path / "a")
    found = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert found == [
        "config.json",
        *(f"golden/{side}.safetensors" for side in ("inputs", "outputs")),
        *(f"model/{n}" for n in ("bundle.toml", "divider.py", "holdout.npz", "weights.npy")),
    ]
    (tmp_path / "a" / "model" / "divider.py").write_text("import os")
    prepare(home.store(), digest, home.policy(), tmp_path / "b")
    assert "class Divider" in (tmp_path / "b" / "model" / "divider.py").read_text()


def test_another_home_does_not_trust_it(signed: tuple[Home, str], tmp_path: Path) -> None:
    """A signer whom this home does not know is refused before anything is unpacked, until a person trusts the key."""
    home, digest = signed
    stranger = Home(tmp_path / "stranger").make()
    with pytest.raises(UntrustedBundle, match="snowgate bundle trust"):
        prepare(home.store(), digest, stranger.policy(), tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
    (tmp_path / "home.pub").write_bytes(home.keys().public_pem())
    stranger.keys().trust(tmp_path / "home.pub")
    prepare(home.store(), digest, stranger.policy(), tmp_path / "unpacked")


def test_a_tampered_envelope_is_refused(signed: tuple[Home, str]) -> None:
    """Another statement under the same signature, put into the store as a good blob, does not count."""
    home, digest = signed
    envelope = home.store().attestations(digest)[0]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["runDetails"]["builder"]["id"] = "somebody else"
    forged = envelope | {"payload": base64.b64encode(json.dumps(statement).encode()).decode()}
    unsigned = other_bundle(home)
    home.store().attach(unsigned, forged)
    with pytest.raises(UntrustedBundle, match="altered"):
        check_trust(home.store(), unsigned, home.policy())


def test_a_signature_of_another_bundle_does_not_count(signed: tuple[Home, str]) -> None:
    """The envelope of a trusted bundle, attached to another one, is refused."""
    home, digest = signed
    other = other_bundle(home)
    home.store().attach(other, home.store().attestations(digest)[0])
    with pytest.raises(UntrustedBundle, match="about another bundle"):
        check_trust(home.store(), other, home.policy())


def test_one_good_signature_among_others_is_enough(signed: tuple[Home, str], tmp_path: Path) -> None:
    """Others may sign too; the order does not matter."""
    home, _digest = signed
    other = other_bundle(home)
    home.store().attach(other, signing.sign(other, "m", PREDICATE_TYPE, {}, Keys(tmp_path / "stranger").signer()))
    with pytest.raises(UntrustedBundle, match="does not trust"):
        check_trust(home.store(), other, home.policy())
    home.store().attach(other, signing.sign(other, "m", PREDICATE_TYPE, {}, home.keys().signer()))
    assert check_trust(home.store(), other, home.policy()) == "code, brought in by home"


def test_words_about_a_bundle_do_not_bring_it_in(home: Home) -> None:
    """A test result or a review with the home's own key vouches for nothing that runs: only its maker's word does."""
    other = other_bundle(home)
    signer = home.keys().signer()
    for predicate_type in (TEST_RESULT, VERDICT, "https://example.org/else"):
        home.store().attach(other, signing.sign(other, "m", predicate_type, {}, signer))
    with pytest.raises(UntrustedBundle, match="not signed by anybody who made it"):
        check_trust(home.store(), other, home.policy())


def test_what_executes_nothing_needs_no_signature(home: Home) -> None:
    """Data that a loader of ours reads is checked by its digests; nobody has to vouch for code that is not there."""
    store = home.store()
    config = store.add_blob(b'{"model":"m","loader":"onnx","inputs":[],"outputs":[]}', CONFIG_TYPE)
    digest = store.add_manifest(Manifest(config, (store.add_blob(b"data", CODE_TYPE, "model/m.onnx"),)))
    assert check_trust(store, digest, home.policy()) == "nothing in it is executed"


@pytest.mark.parametrize(
    ("path", "kind"), [("m.PKL", "pickle"), ("m.joblib", "pickle"), ("m.pt2", "torch-export"), ("op.so", "native")]
)
def test_executable_content_is_known_by_its_ending(home: Home, path: str, kind: str) -> None:
    """Each kind that may run something while it is loaded needs a signature, and the kind is said."""
    store = home.store()
    config = store.add_blob(b'{"model":"m","loader":"onnx","inputs":[],"outputs":[]}', CONFIG_TYPE)
    digest = store.add_manifest(Manifest(config, (store.add_blob(path.encode(), CODE_TYPE, f"model/{path}"),)))
    with pytest.raises(UntrustedBundle, match="not signed by anybody"):
        check_trust(store, digest, home.policy())
    store.attach(digest, signing.sign(digest, "m", PREDICATE_TYPE, {}, home.keys().signer()))
    assert check_trust(store, digest, home.policy()) == f"{kind}, brought in by home"


def test_what_nobody_signed_is_refused(home: Home, tmp_path: Path) -> None:
    """Code without a signature does not run, and the message says how it gets one."""
    with pytest.raises(UntrustedBundle, match="not signed by anybody"):
        prepare(home.store(), other_bundle(home), home.policy(), tmp_path / "unpacked")


@pytest.mark.parametrize("path", ["../../outside.py", "/outside.py", "model/../../outside.py"])
def test_a_signed_manifest_writes_nothing_outside(home: Home, tmp_path: Path, path: str) -> None:
    """Even a trusted signer's manifest with a path that leads out is refused, before any file is written."""
    store = home.store()
    document: dict[str, Any] = json.loads(Manifest(store.add_blob(b"{}", CONFIG_TYPE), ()).to_bytes())
    layer = store.add_blob(b"print('owned')", CODE_TYPE).to_json()
    document["layers"] = [layer | {"annotations": {PATH_ANNOTATION: path}}]
    digest = store.add_blob(json.dumps(document).encode(), "").digest
    target = tmp_path / "deep" / "unpacked"
    with pytest.raises(CorruptBundle, match="plain relative path"):
        store.attach(digest, signing.sign(digest, "m", "p", {}, home.keys().signer()))
    with pytest.raises((CorruptBundle, UntrustedBundle)):
        prepare(store, digest, home.policy(), target)
    assert not list(tmp_path.rglob("outside.py"))


def other_bundle(home: Home) -> str:
    """Put a bundle that nobody has signed into a home."""
    store = home.store()
    config = store.add_blob(b'{"model":"m","loader":"python","entrypoint":"m:M","inputs":[],"outputs":[]}', CONFIG_TYPE)
    return store.add_manifest(Manifest(config, (store.add_blob(b"print()", CODE_TYPE, "model/m.py"),)))
