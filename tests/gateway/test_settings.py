"""Settings: where each value comes from, and what is said about a wrong one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.settings import Settings, SettingsError, find_file, known_keys, load_settings


def written(folder: Path, text: str) -> Path:
    """A settings file."""
    file = folder / "snowgate.toml"
    file.write_text(text)
    return file


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source overrides the one below it, and the origin names the source that won."""
    file = written(tmp_path, "[server]\nport = 1001\nworkers = 2\nhost = '127.0.0.2'\n")
    variables = {"SNOWGATE_SERVER__PORT": "1002", "SNOWGATE_SERVER__WORKERS": "3"}
    settings, origins = load_settings(file, variables, {"server.port": 1003, "server.insecure": None})
    assert (settings.server.port, settings.server.workers, settings.server.host) == (1003, 3, "127.0.0.2")
    assert settings.server.environment == "production"
    assert origins == {
        "server.port": "--port",
        "server.workers": "SNOWGATE_SERVER__WORKERS",
        "server.host": str(file),
    }


def test_a_nested_section_is_set_by_a_variable() -> None:
    """The webhook's variable has a double underscore for every level."""
    settings, _origins = load_settings(None, {"SNOWGATE_PAGE__WEBHOOK__URL": "http://127.0.0.1:9/x"}, {})
    assert settings.page.webhook.url == "http://127.0.0.1:9/x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", ["snowgate.toml", "server.prot", "did you mean server.port?"]),
        ("[serve]\nport = 1\n", ["snowgate.toml", "serve"]),
        ("[server]\nport = 'many'\n", ["snowgate.toml", "server.port", "'many'", "integer"]),
        ("[server]\nport = 70000\n", ["snowgate.toml", "server.port", "70000", "65533"]),
        ("[server\n", ["snowgate.toml", "line 1"]),
        ("[export]\nurl = 'ftp://x'\n", ["export.url", "ftp://x"]),
        ("[export]\nformat = 'kserve'\nbatch = 2\n", ["export", "expected batch = 1"]),
        ("[monitor]\ndays_per_false_page = 0\n", ["monitor.days_per_false_page", "greater than 0"]),
    ],
)
def test_a_wrong_file_is_named_with_what_was_expected(tmp_path: Path, text: str, words: list[str]) -> None:
    """The sentence names the file, the key, the value and the expectation, or the setting that was meant."""
    with pytest.raises(SettingsError) as caught:
        load_settings(written(tmp_path, text), {}, {})
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    """A misspelt variable is an error that names the variable, not a setting that is silently left out."""
    with pytest.raises(SettingsError, match=r"SNOWGATE_SERVER__PROT.*did you mean server.port"):
        load_settings(None, {"SNOWGATE_SERVER__PROT": "1"}, {})
    with pytest.raises(SettingsError, match=r"SNOWGATE_SERVER__PORT.*'x'"):
        load_settings(None, {"SNOWGATE_SERVER__PORT": "x"}, {})


def test_a_setting_beside_a_section_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    """A value where a section belongs, and both together, are told apart from a bug of ours."""
    with pytest.raises(SettingsError, match="server"):
        load_settings(written(tmp_path, "server = 8080\n"), {}, {})
    with pytest.raises(SettingsError, match="server"):
        load_settings(written(tmp_path, "server = 8080\n"), {"SNOWGATE_SERVER__PORT": "1"}, {})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    """SNOWGATE_HOME and SNOWGATE_SERVER belong to the command line."""
    settings, origins = load_settings(None, {"SNOWGATE_HOME": "x", "SNOWGATE_SERVER": "http://x", "PATH": "y"}, {})
    assert settings == Settings()
    assert origins == {}


def test_the_file_here_comes_before_the_one_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the working folder is taken first, then the home's, then none."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_file(home) is None
    in_home = written(home, "")
    assert find_file(home) == in_home
    written(tmp_path, "")
    assert find_file(home) == Path("snowgate.toml")


def test_settings_can_not_be_changed() -> None:
    """They are read once; afterwards nobody can change one under the others' feet."""
    with pytest.raises(ValidationError):
        Settings().server.port = 1


def test_every_setting_is_described_in_the_schema() -> None:
    """The published JSON Schema forbids unknown keys and describes every known one."""
    schema = Settings.model_json_schema()
    described = {
        name: one
        for section in schema["$defs"].values()
        for name, one in section["properties"].items()
        if "$ref" not in one
    }
    assert {key.rpartition(".")[2] for key in known_keys()} == set(described)
    assert [name for name, one in described.items() if not one.get("description")] == []
    assert all(section["additionalProperties"] is False for section in schema["$defs"].values())


@pytest.mark.parametrize(
    ("host", "only_here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("gateway.example", False)],
)
def test_loopback_is_told_from_addresses_that_others_reach(host: str, only_here: bool) -> None:
    """Only a loopback address counts as this machine only; a name that is not known counts as public."""
    assert load_settings(None, {}, {"server.host": host})[0].loopback is only_here


def test_a_model_has_settings_of_its_own(tmp_path: Path) -> None:
    """What is set for one model goes before what is set for all; a model's name may hold a dot."""
    text = "[runner]\nreplicas = 2\nhang_seconds = 5\n[models.signs]\nreplicas = 3\n[models.'v1.5']\nhang_seconds = 9\n"
    variables = {"SNOWGATE_MODELS__SIGNS__MEMORY_BYTES": "1000000000"}
    settings, origins = load_settings(written(tmp_path, text), variables, {})
    found = {name: settings.runner_of(name) for name in ("signs", "v1.5", "other")}
    assert {name: (one.replicas, one.hang_seconds) for name, one in found.items()} == {
        "signs": (3, 5.0),
        "v1.5": (2, 9.0),
        "other": (2, 5.0),
    }
    assert (found["signs"].memory_bytes, found["other"].memory_bytes) == (1_000_000_000, None)
    assert origins["models.signs.memory_bytes"] == "SNOWGATE_MODELS__SIGNS__MEMORY_BYTES"
    with pytest.raises(SettingsError, match=r"unknown setting models\.signs\.replica"):
        load_settings(written(tmp_path, "[models.signs]\nreplica = 3\n"), {}, {})


def test_a_model_has_a_log_of_its_own(tmp_path: Path) -> None:
    """`[models.NAME.log]` goes before `[log]`, and is none of the runners' business."""
    text = "[log]\nloss_records = 50\n[models.signs.log]\non_failure = 'serve'\n"
    settings, _origins = load_settings(written(tmp_path, text), {"SNOWGATE_LOG__DURABILITY": "async"}, {})
    found = {name: settings.log_of(name) for name in ("signs", "other")}
    assert {name: one.on_failure for name, one in found.items()} == {"signs": "serve", "other": "refuse"}
    assert {(one.durability, one.loss_records) for one in found.values()} == {("async", 50)}
    assert settings.runner_of("signs") == settings.runner
    with pytest.raises(SettingsError, match=r"models\.signs\.log\.on_failure.*'serve'"):
        load_settings(written(tmp_path, "[models.signs.log]\non_failure = 'drop'\n"), {}, {})


def test_devices_are_a_list_or_one_text() -> None:
    """A file has a list, a variable a text with commas; what is no device is refused with what was expected."""
    variables = {"SNOWGATE_MODELS__SIGNS__DEVICES": "cuda:0,cuda:1"}
    settings, _origins = load_settings(None, variables, {})
    assert settings.runner_of("signs").devices == ["cuda:0", "cuda:1"]
    assert settings.runner_of("other").devices == ["cpu"]
    with pytest.raises(SettingsError, match=r"runner\.devices.*cuda"):
        load_settings(None, {"SNOWGATE_RUNNER__DEVICES": "gpu"}, {})


def test_a_model_has_rules_of_its_own_for_the_log(tmp_path: Path) -> None:
    """What one model's calls keep goes before what all keep; a variable parts names by commas."""
    text = "[log]\npayload_rate = 0.5\nredact_tensors = ['face']\n[models.signs.log]\npayload_rate = 1\n"
    variables = {"SNOWGATE_MODELS__TRIAGE__LOG__REDACT_JSON": "$.person.name,$..age"}
    settings, origins = load_settings(written(tmp_path, text), variables, {})
    signs, triage, other = (settings.log_of(name) for name in ("signs", "triage", "other"))
    assert [one.payload_rate for one in (signs, triage, other)] == [1.0, 0.5, 0.5]
    assert [one.redact_json for one in (signs, triage)] == [(), ("$.person.name", "$..age")]
    assert {one.redact_tensors for one in (signs, triage, other)} == {("face",)}
    assert origins["models.triage.log.redact_json"] == "SNOWGATE_MODELS__TRIAGE__LOG__REDACT_JSON"
    assert settings.runner_of("signs") == settings.runner
    with pytest.raises(SettingsError, match=r"models\.signs\.log\.redact_json"):
        load_settings(written(tmp_path, "[models.signs.log]\nredact_json = ['person.name']\n"), {}, {})
