"""The card and the bill of materials say what the bundle says."""

import json
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundles.bundle import Bundle, open_bundle
from bundles.card import card
from bundles.home import Home
from bundles.packing import pack
from bundles.recording import record
from bundles.sbom import sbom
from tests.bundles.test_recording import COPY
from tests.conftest import snowgate


@pytest.fixture
def trained(project: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with a recorded run."""
    monkeypatch.chdir(project)
    (project / "rows.csv").write_text("a,b\n1,2\n")
    (project / "metrics.json").write_text('{"accuracy": 0.75}')
    program = "import os, pathlib\nout = pathlib.Path(os.environ['SNOWGATE_OUTPUT'])\nopen('rows.csv').read()\n"
    (project / "train.py").write_text(program + COPY)
    record([sys.executable, "train.py", "--seed", "7"], output=project / "out", say=lambda _text: None)
    return open_bundle(home.store(), pack(home, project / "out").digest)


def test_the_card_has_the_facts(trained: Bundle) -> None:
    """Digest, data with its digest, metrics, seed and author are in it; it is the same each time."""
    found = card(trained, "1")
    (rows,) = [one for one in trained.run()["data"] if one["name"] == "rows.csv"]
    assert found.startswith("---\nlibrary_name: ")
    for text in (trained.digest, rows["sha256"][:19], "| accuracy | 0.75 |", "'seed': '7'", "A Tester"):
        assert text in found
    assert card(trained, "1") == found


def test_the_bill_of_materials_is_cyclonedx(trained: Bundle, home: Home) -> None:
    """CycloneDX's own schema takes it; each file, package and data file is there with its digest."""
    found = snowgate(home.path, "bundle", "sbom", trained.digest)
    assert found == sbom(trained, "1")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found)) is None
    files = {one["name"] for one in found["metadata"]["component"]["components"]}
    assert files == set(trained.manifest.files())
    names = {one["name"] for one in found["components"]}
    assert {"numpy", "rows.csv"} <= names
