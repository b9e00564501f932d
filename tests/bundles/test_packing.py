import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bundles.bundle import Bundle, describe, open_bundle
from bundles.digest import sha256_file
from bundles.errors import CorruptBundle, HomeError, RecipeError, RunnerFailed, UnknownReference
from bundles.home import Home
from bundles.loading import check_trust, prepare
from bundles.manifest import CONFIG_TYPE, DATASET_TYPE, WEIGHT_TYPE, Descriptor, Manifest
from bundles.packing import pack
from bundles.process import RunnerProcess, reproduces_golden
from bundles.runner import golden

PACKING = """
import sys
from pathlib import Path
from bundles.home import Home
from bundles.packing import pack
print(pack(Home(Path(sys.argv[1])), Path(sys.argv[2])).version)
"""


def packed(home: Home, project: Path) -> Bundle:
    """Pack a project and open what came of it."""
    return open_bundle(home.store(), pack(home, project).digest)


def test_a_packed_folder_serves_as_it_was_measured(home: Home, project: Path, tmp_path: Path) -> None:
    """From a folder to a running model: the unpacked bundle reproduces its golden answers."""
    made = pack(home, project)
    assert (made.model, made.version) == ("divider", "1")
    bundle = prepare(home.store(), made.digest, home.policy(), tmp_path / "unpacked")
    with RunnerProcess(tmp_path / "unpacked") as runner:
        report = reproduces_golden(bundle, runner)
    assert report.agrees
    assert report.worst_absolute == 0
    inputs, outputs = bundle.golden()
    assert np.array_equal(outputs["scores"], inputs["pixels"] * np.arange(4, dtype=np.float32) / 2)
    assert len(inputs["pixels"]) == 8


def test_the_bundle_carries_all_that_is_promised(home: Home, project: Path) -> None:
    """Every file in its place, with its media type, and the expected distribution of the signals of the holdout."""
    bundle = packed(home, project)
    files = bundle.manifest.files()
    assert sorted(files) == [
        "baseline.json",
        "env/pylock.toml",
        "golden/inputs.safetensors",
        "golden/outputs.safetensors",
        "model/bundle.toml",
        "model/divider.py",
        "model/holdout.npz",
        "model/weights.npy",
        "provenance.json",
    ]
    assert files["model/weights.npy"].media_type == WEIGHT_TYPE
    assert files["model/holdout.npz"].media_type == DATASET_TYPE
    baseline = bundle.baseline()
    assert (baseline.source, baseline.rows) == ("holdout", 100)
    assert {"class", "energy", "confidence", "pixels.mean"} <= set(baseline.signals)
    assert sum(baseline.signals["class"].counts.values()) == 100


def test_versions_branch_and_lineage(home: Home, project: Path) -> None:
    """Packing again is the next version, the branch follows, and a parent is recorded by its digest."""
    first = pack(home, project)
    second = pack(home, project, parents=["divider@1"])
    refs = home.refs()
    assert (first.version, second.version) == ("1", "2")
    assert refs.resolve("divider@main")[0] == second.digest
    assert [ref.digest for ref in refs.history("refs/heads/divider/main")] == [second.digest, first.digest]
    bundle = open_bundle(home.store(), second.digest)
    assert bundle.config["parents"] == [first.digest]
    named = [one["name"] for one in bundle.provenance()["buildDefinition"]["resolvedDependencies"]]
    assert f"parent/{first.digest}" in named
    with pytest.raises(UnknownReference, match="divider@9"):
        pack(home, project, parents=["divider@9"])


def test_two_processes_that_pack_at_once_get_different_versions(tmp_path: Path, project: Path) -> None:
    """In a home that neither has made: one key, one repository, two versions, both sound and trusted."""
    home = Home(tmp_path / "fresh")
    command = [sys.executable, "-c", PACKING, str(home.path), str(project)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0] for process in running) == ["1\n", "2\n"]
    assert len(home.store().list()) == 2
    for version in ("1", "2"):
        digest, _model, _version = home.refs().resolve(f"divider@{version}")
        home.store().verify(digest)
        check_trust(home.store(), digest, home.policy())
    assert home.refs().resolve("divider@main")[0] in home.store().list()


def test_show_has_every_field(home: Home, project: Path) -> None:
    """What `snowgate bundle show` prints is plain JSON, and complete."""
    bundle = packed(home, project)
    shown = describe(bundle, "1", ["divider@1"], [{"key": "k", "trusted": True}])
    assert json.loads(json.dumps(shown)) == shown
    assert shown["digest"] == bundle.digest
    assert (shown["model"], shown["version"], shown["refs"]) == ("divider", "1", ["divider@1"])
    assert shown["authors"] == ["A Tester <tester@example.org>"]
    assert shown["metrics"] == {"accuracy": 0.75}
    assert shown["parameters"] == {"by": 2}
    assert shown["golden"] == {"rows": 8, "tolerance": {"absolute": 1e-4, "relative": 1e-4}}
    assert shown["baseline"]["rows"] == 100
    assert shown["environment"]["packages"] > 10
    assert shown["size_bytes"] == sum(one["size"] for one in shown["files"]) + bundle.manifest.config.size
    assert (shown["code"], shown["data"], shown["command"]) == (None, [], None)


def test_without_a_recorded_run_nothing_is_invented(home: Home, project: Path) -> None:
    """The provenance says who packed what, declared, and makes no claim about training."""
    bundle = packed(home, project)
    provenance = bundle.provenance()
    definition = provenance["buildDefinition"]
    assert definition["buildType"] == "https://snowgate.dev/pack/v1"
    assert definition["externalParameters"] == {}
    assert definition["internalParameters"]["author"] == "A Tester <tester@example.org>"
    assert provenance["runDetails"]["metadata"]["startedOn"] is None
    assert provenance["runDetails"]["byproducts"] == []
    resources = {one["name"]: one for one in definition["resolvedDependencies"]}
    assert resources["model/divider.py"]["annotations"] == {"authority": "declared"}
    assert f"sha256:{resources['model/divider.py']['digest']['sha256']}" == sha256_file(project / "divider.py")
    assert "source" not in resources
    assert not [name for name in resources if name.startswith("data/")]


def test_metrics_of_the_run_are_taken_along(home: Home, project: Path) -> None:
    """`metrics.json` joins those of the recipe; something else in it is a mistake with its file's name."""
    (project / "metrics.json").write_text('{"loss": 0.25, "accuracy": 0.5}')
    assert packed(home, project).config["metrics"] == {"accuracy": 0.5, "loss": 0.25}
    for content in ('{"loss": "low"}', "[]", "{"):
        (project / "metrics.json").write_text(content)
        with pytest.raises(RecipeError, match=r"metrics\.json"):
            pack(home, project)


def test_golden_rows_of_ones_own(home: Home, project: Path) -> None:
    """A golden file is used instead of the holdout's first rows."""
    np.savez(project / "golden.npz", pixels=np.full((2, 4), 2.0, dtype=np.float32))
    recipe = (project / "bundle.toml").read_text()
    (project / "bundle.toml").write_text('golden = "golden.npz"\n' + recipe)
    inputs, outputs = packed(home, project).golden()
    assert inputs["pixels"].tolist() == [[2.0] * 4] * 2
    assert outputs["scores"].tolist() == [[0.0, 1.0, 2.0, 3.0]] * 2


def test_text_inputs_and_outputs_come_back_as_bytes(home: Home, tmp_path: Path) -> None:
    """BYTES golden examples travel too, of any width, with bytes that are no text."""
    (tmp_path / "bundle.toml").write_text(
        'model = "echo"\nloader = "python"\nentrypoint = "echo:Echo"\nholdout = "rows.npz"\n'
        'inputs = [{ name = "text", datatype = "BYTES", shape = [-1, 2] }]\n'
        'outputs = [{ name = "said", datatype = "BYTES", shape = [-1, 1], semantic = "label" }]\n'
    )
    (tmp_path / "echo.py").write_text(
        "class Echo:\n"
        "    def load(self, directory):\n        pass\n"
        "    def predict(self, inputs):\n        return {'said': inputs['text'][:, :1] + b'\\xff'}\n"
    )
    np.savez(tmp_path / "rows.npz", text=np.array([[b"ab", b"c"], ["é".encode(), b""]]))
    made = pack(home, tmp_path)
    bundle = open_bundle(home.store(), made.digest)
    assert golden.TEXT in bundle.manifest.files()
    inputs, outputs = bundle.golden()
    assert inputs["text"].tolist() == [[b"ab", b"c"], ["é".encode(), b""]]
    assert outputs["said"].tolist() == [[b"ab\xff"], ["é".encode() + b"\xff"]]
    prepare(home.store(), made.digest, home.policy(), tmp_path / "unpacked")
    with RunnerProcess(tmp_path / "unpacked") as runner:
        assert reproduces_golden(bundle, runner).agrees


def test_a_model_that_throws_dice_is_refused(home: Home, project: Path) -> None:
    """What can't be reproduced a second later can't be nine months later; the message says what to do."""
    (project / "divider.py").write_text(
        "import numpy as np\n\n\nclass Divider:\n"
        "    def __init__(self, by):\n        pass\n"
        "    def load(self, directory):\n        pass\n"
        "    def predict(self, inputs):\n"
        "        return {'scores': np.random.normal(size=inputs['pixels'].shape)}\n"
    )
    with pytest.raises(RecipeError, match=r"'scores' of the golden examples differs.*take chance out of it"):
        pack(home, project)
    assert home.store().list() == []
    assert home.refs().list("refs/") == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class Divider", "class Multiplier", "has no 'Divider'"),
        ("import numpy", "import nampy", "nampy"),
        ('{"scores":', '{"points":', "missing: scores"),
    ],
)
def test_a_model_that_does_not_run_is_not_packed(home: Home, project: Path, old: str, new: str, said: str) -> None:
    """Nothing gets a version that the runner could not load and ask; what the model said is in the error."""
    path = project / "divider.py"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RunnerFailed, match=said):
        pack(home, project)
    assert home.refs().list("refs/") == []


def test_a_model_needs_a_name(home: Home, project: Path) -> None:
    """From the recipe or the caller, and a good one; the caller wins."""
    assert pack(home, project, model="other").model == "other"
    recipe = (project / "bundle.toml").read_text()
    (project / "bundle.toml").write_text(recipe.replace('model = "divider"\n', ""))
    with pytest.raises(RecipeError, match="--model"):
        pack(home, project)


def test_a_number_that_json_cannot_hold_is_named(home: Home, project: Path) -> None:
    """Parameters enter the identity, so they must mean one thing everywhere."""
    recipe = (project / "bundle.toml").read_text()
    (project / "bundle.toml").write_text(recipe.replace("{ by = 2 }", "{ by = 9007199254740993 }"))
    with pytest.raises(RecipeError, match=r"bundle\.toml: parameters and metrics"):
        pack(home, project)


def test_a_link_that_leads_out_is_refused(home: Home, project: Path, tmp_path: Path) -> None:
    """What lies outside of the folder does not get into a bundle by accident."""
    (tmp_path / "private").write_text("secret")
    (project / "notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(RecipeError, match=r"notes\.txt: a link that leads out"):
        pack(home, project)


def test_an_unwritable_home_is_one_clear_sentence(project: Path, tmp_path: Path) -> None:
    """The path, why, and what to do."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(HomeError, match=f"home {path}: .*--home"):
            pack(Home(path), project)


@pytest.mark.parametrize("config", [b"", b"[]", b'{"model": 7, "loader": "x", "inputs": [], "outputs": []}', b"{}"])
def test_a_configuration_that_is_none_is_refused(home: Home, config: bytes) -> None:
    """A bundle from elsewhere may hold anything; opening it is a CorruptBundle with the file's name."""
    store = home.store()
    digest = store.add_manifest(Manifest(store.add_blob(config, CONFIG_TYPE), ()))
    with pytest.raises(CorruptBundle, match=r"config\.json"):
        open_bundle(store, digest)


def test_a_file_that_is_not_in_the_bundle_is_named(home: Home, project: Path) -> None:
    """Asking for a missing part is an error with its path, not an empty answer."""
    bundle = packed(home, project)
    with pytest.raises(CorruptBundle, match=r"eval/more\.json is not in bundle sha256:"):
        bundle.file("eval/more.json")
    with pytest.raises(CorruptBundle, match="model/w is missing"):
        home.store().read(Descriptor(WEIGHT_TYPE, f"sha256:{'0' * 64}", 1, "model/w"))
