"""Bundles trained again, really: a training run in a fresh environment, confined, and its model asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bundles.bundle import LOCK, open_bundle
from bundles.errors import CorruptBundle, EnvironmentFailed, ReproductionError, UntrustedBundle
from bundles.home import Home
from bundles.packing import pack
from bundles.reproduction.reproduce import Changes, reproduce
from bundles.reproduction.statement import last, reproductions
from bundles.signing import Keys
from tests.bundles.reproduction.conftest import Trained
from tests.bundles.reproduction.trained import numpy_wheel
from tests.conftest import write_model

Elsewhere = Callable[[], Trained]

PROBE = """
import json, os, socket
from pathlib import Path

found = {"home": os.environ["HOME"], "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"), "cwd": os.getcwd()}
try:
    socket.create_connection(("127.0.0.1", PORT), 2)
    found["network"] = "open"
except OSError as error:
    found["network"] = type(error).__name__
for name, path in (("outside", "OUTSIDE"), ("user", str(Path("~root").expanduser() / "x")), ("tmp", "/tmp/x")):
    try:
        Path(path).write_text("here")
        found[name] = "written"
    except OSError as error:
        found[name] = type(error).__name__
raise SystemExit(json.dumps(found))
"""


def test_the_same_model_comes_out(trained: Trained) -> None:
    """Nothing of this machine, the same bytes: identical, signed beside the bundle, in an environment of its own."""
    result = trained.again()
    assert (result["verdict"], result["cause"], result["agreement"]) == ("identical", None, 1.0)
    assert result["reproduced_digest"] == result["model_digest"]
    assert result["metrics"]["before"] == result["metrics"]["after"]
    assert result["environment"]["packages"] == 1, "numpy is all that the run has imported"
    assert result["environment"]["left_out"] == result["environment"]["unpinned"] == []
    said = reproductions(trained.home.store(), trained.packed.digest, trained.home.keys().trusted())
    newest = last(said)
    assert newest is not None
    assert (newest["verdict"], newest["time"], newest["by"]) == ("identical", result["time"], result["by"])


def test_a_lock_names_its_wheels_and_no_place(trained: Trained) -> None:
    """What the run imported has a hash; what else was installed is named; no folder of this machine is in it."""
    text = open_bundle(trained.home.store(), trained.packed.digest).file(LOCK).decode()
    assert 'name = "numpy-' in text
    assert "not imported by the run" in text
    assert str(trained.wheels) not in text


def test_another_numpy(trained: Trained, tmp_path: Path) -> None:
    """Packages moved on: the bytes differ, no answer does, and the cause is the environment."""
    later = numpy_wheel(trained.wheels, "9.9.9")
    asked = tmp_path / "newest.txt"
    asked.write_text(f"numpy=={later}\n")
    result = trained.again(packages=asked)
    assert (result["verdict"], result["cause"], result["kind"]) == ("numerically-equal", "environment", "reproduction")
    assert result["environment"]["moved"]["numpy"][1] == later
    assert result["reproduced_digest"] != result["model_digest"]


def test_another_seed_is_equivalent(trained: Trained) -> None:
    """The same model as far as its predictions can tell; a rehearsal, which is no reproduction of this bundle."""
    result = trained.again(parameters={"seed": "2"})
    assert (result["verdict"], result["cause"], result["kind"]) == ("equivalent", "seed", "rehearsal")
    assert result["floor"] <= result["agreement"] < 1.0
    low, high = result["interval"]
    assert low <= result["agreement"] <= high
    said = reproductions(trained.home.store(), trained.packed.digest, trained.home.keys().trusted())
    assert said[0]["verdict"] == "equivalent"
    assert (last(said) or {}).get("verdict") != "equivalent"


def test_a_tenth_less_data_is_different(trained: Trained, tmp_path: Path) -> None:
    """At nearly the same accuracy: the held rows tell, by a margin that is shown."""
    with np.load(trained.project / "data" / "train.npz") as archive:
        kept = np.r_[0:60, 90:300]
        np.savez(tmp_path / "less.npz", x=archive["x"][kept], y=archive["y"][kept])
    result = trained.again(data={"data/train.npz": tmp_path / "less.npz"})
    assert (result["verdict"], result["cause"]) == ("different", "data")
    assert result["agreement"] < result["floor"]
    assert result["margin"] == pytest.approx(result["agreement"] - result["floor"])
    assert abs(result["metrics"]["after"]["accuracy"] - result["metrics"]["before"]["accuracy"]) < 0.01
    with pytest.raises(ReproductionError, match=r"the run has read bundle\.toml, data/holdout\.npz, data/train\.npz"):
        trained.again(data={"train.npz": tmp_path / "less.npz"})


def test_another_architecture_is_different(trained: Trained, tmp_path: Path) -> None:
    """Squares among the features, about the same accuracy, and other answers."""
    other = shutil.copytree(trained.project, tmp_path / "other", ignore=shutil.ignore_patterns("model", "data"))
    network = other / "network.py"
    network.write_text(network.read_text().replace("return x\n", "return np.concatenate([x, x**2 - 1], axis=1)\n"))
    result = trained.again(source=other)
    assert (result["verdict"], result["cause"]) == ("different", "code")
    assert result["agreement"] < result["floor"]
    assert abs(result["metrics"]["after"]["accuracy"] - result["metrics"]["before"]["accuracy"]) < 0.01


def test_data_that_is_lost_is_named(trained: Trained, elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Altered bytes are not the data, whatever their name; nothing runs; a place that has them will do."""
    away = trained.project.rename(trained.project.with_name("away"))
    try:
        result = trained.again()
        assert (result["verdict"], result["agreement"]) == ("data-lost", None)
        assert [one["name"] for one in result["lost"]] == ["data/holdout.npz", "data/train.npz"]
        assert "data/train.npz (sha256:" in result["reason"]
        trained.project.joinpath("data").mkdir(parents=True)
        for name in ("train.npz", "holdout.npz"):
            data = (away / "data" / name).read_bytes()
            (trained.project / "data" / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert trained.again()["verdict"] == "data-lost"
        shutil.copytree(away / "data", tmp_path / "found" / "data")
        assert trained.again(data_from=str(tmp_path / "found"))["verdict"] == "identical"
    finally:
        shutil.rmtree(trained.project, ignore_errors=True)
        away.rename(trained.project)


def test_a_stranger_trusts_first(trained: Trained, elsewhere: Elsewhere, tmp_path: Path) -> None:
    """A copy in another home is refused until its signer is trusted, and then trained again from its own bytes."""
    there = elsewhere()
    with pytest.raises(UntrustedBundle, match="bundle trust"):
        there.again()
    key = tmp_path / "signer.pub"
    key.write_bytes(trained.home.keys().public_pem())
    there.home.keys().trust(key)
    assert there.again()["verdict"] == "identical"
    assert Keys(there.home.path / "keys").signer().public_key.keyid != trained.home.keys().signer().public_key.keyid


def test_an_altered_byte_is_refused(trained: Trained, elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Before anything runs, with the path of the file."""
    there = elsewhere()
    key = tmp_path / "signer.pub"
    key.write_bytes(trained.home.keys().public_pem())
    there.home.keys().trust(key)
    source = open_bundle(there.home.store(), there.packed.digest).manifest.files()["code/source.tar"]
    blob = there.home.path / "bundles" / "blobs" / "sha256" / source.digest.removeprefix("sha256:")
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + b"!")
    with pytest.raises(CorruptBundle, match=r"code/source\.tar is altered"):
        there.again()


def test_what_can_not_be_run_is_one_sentence(trained: Trained, tmp_path: Path) -> None:
    """An interpreter that is not there, a bundle that was never trained here, too few seeds for a floor."""
    with pytest.raises(EnvironmentFailed, match=r"no Python 3\.99 on this machine"):
        trained.again(python="3.99")
    with pytest.raises(ReproductionError, match="--floor-seeds 1: expected 2 to 50"):
        trained.again(floor_seeds=1)
    home = Home(tmp_path / "home").make()
    packed = pack(home, write_model(tmp_path / "model"), model="signs")
    with pytest.raises(ReproductionError, match="no training run was recorded"):
        reproduce(home, packed.digest, changes=Changes())


def test_the_run_is_confined(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no writing outside, no variable of ours: what it found of that is in the reason of its failure."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    other = shutil.copytree(trained.project, tmp_path / "other", ignore=shutil.ignore_patterns("model", "data"))
    outside = tmp_path / "outside.txt"
    (other / "probe.py").write_text(PROBE.replace("PORT", "9").replace("OUTSIDE", str(outside)))
    result = trained.again(source=other, parameters={"probe": "probe.py"})
    assert result["verdict"] == "different"
    found = json.loads(result["reason"][result["reason"].index("{") :])
    assert found["secret"] is None
    assert "snowgate-reproduce-" in found["home"]
    assert found["cwd"].endswith("/project")
    confined = trained.again()["environment"]["confined"]  # A run that fails tells nothing of it.
    assert confined, "what it was confined by is told"
    if set(confined.values()) != {"on"}:
        pytest.skip(f"not run: this kernel does not confine all that it could: {confined}")
    assert {found["outside"], found["user"], found["tmp"], found["network"]} == {"PermissionError"}
    assert not outside.exists()
    assert not Path("/tmp/x").exists()


def test_a_run_that_hangs_is_ended(trained: Trained, tmp_path: Path) -> None:
    """At its limit, with what to type for more; no verdict is made of it."""
    other = shutil.copytree(trained.project, tmp_path / "other", ignore=shutil.ignore_patterns("model", "data"))
    (other / "probe.py").write_text("import time; time.sleep(600)")
    with pytest.raises(ReproductionError, match=r"took longer than 2 s.*--timeout"):
        trained.again(source=other, parameters={"probe": "probe.py"}, timeout=2.0)
