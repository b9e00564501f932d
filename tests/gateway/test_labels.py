"""Labels through the operations, the admin API and the command line, on a real home and a real gateway."""

import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet

from gateway.labels import label_of
from monitors.log.record import new_id
from tests.conftest import Gateway, snowgate, wait_until
from tests.gateway.conftest import Story
from tests.gateway.test_admin import ask, http
from tests.gateway.test_cli import run

STRANGER = new_id(10**18)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"value": 1}, "either prediction_id or client_id"),
        ({"value": 1, "prediction_id": STRANGER, "client_id": "a"}, "either prediction_id or client_id"),
        ({"value": 1, "prediction_id": "x"}, "expected a UUID"),
        ({"value": 1, "prediction_id": f"{STRANGER}.x"}, "ID.row"),
        ({"value": 1, "prediction_id": f"{STRANGER}.1", "row": 1}, "ID.row"),
        ({"value": 1, "client_id": "a", "row": -1}, "row: -1"),
        ({"value": None, "client_id": "a"}, "value: None"),
        ({"value": [1], "client_id": "a"}, "value: "),
        ({"value": float("nan"), "client_id": "a"}, "finite"),
        ({"value": 2**64, "client_id": "a"}, "64 bits"),
        ({"value": "", "client_id": "a"}, "value: ''"),
        ({"value": 1, "client_id": "a", "time": "yesterday"}, "time: 'yesterday'"),
        ({"value": 1, "client_id": "a", "time": "2026-11-24T12:00:00"}, "expected such as"),
        ({"value": 1, "client_id": "a", "label": 1}, "label: unknown"),
    ],
)
def test_what_can_be_no_label_is_named(document: dict[str, Any], words: str) -> None:
    """Each thing that is wrong is said with the field, what came and what was expected."""
    with pytest.raises(ValueError, match=words):
        label_of(document, "ada")


def test_labels_are_counted_and_those_that_are_none_are_named(story: Story) -> None:
    """A bad label stops no other; one without a prediction is kept; the prediction shows what was said of it."""
    labels: list[dict[str, Any]] = [
        {"prediction_id": story.answered, "value": 0},
        {"prediction_id": story.answered.upper(), "value": 1, "source": "grace"},
        {"prediction_id": f"{story.answered}.0", "value": 1, "source": "grace"},
        {"prediction_id": f"{story.answered}.1", "value": 1},
        {"prediction_id": STRANGER, "value": 1},
        {"value": 1},
    ]
    done = story.operations.label(labels, actor="ada")
    problems = {one["index"]: one for one in done.pop("problems")}
    assert done == {"accepted": 2, "duplicate": 1, "unmatched": 1, "refused": 2}
    assert [problems[index]["outcome"] for index in (3, 4, 5)] == ["refused", "unmatched", "refused"]
    assert "row 1" in problems[3]["problem"]
    said = story.operations.prediction(story.answered)["labels"]
    assert [(one["value"], one["source"], one["correct"], one["holds"]) for one in said] == [
        (0, "ada", True, False),
        (1, "grace", False, True),
    ]
    assert story.operations.labels.waiting() == 1


def test_who_only_looks_makes_no_file(story: Story) -> None:
    """Without a label there is no file of labels, and a prediction has none."""
    assert story.operations.prediction(story.answered)["labels"] == []
    assert story.operations.labels.families() == []
    assert not (story.home.log / "labels.db").exists()


def test_labels_over_http(admin: str, story: Story) -> None:
    """One label or a list, the counts, the metrics; what is malformed is a problem that names the field."""
    url = f"{admin}/api/v1/labels"
    status, done, _ = ask("POST", url, {"prediction_id": story.answered, "value": 0})
    assert (status, done["accepted"], done["problems"]) == (200, 1, [])
    many = [{"client_id": f"order-{number}", "value": 0, "time": number} for number in range(2_000)]
    assert ask("POST", url, many)[1]["unmatched"] == 2_000
    assert ask("POST", url, many)[1]["duplicate"] == 2_000
    status, problem, _ = ask("POST", url, [{"prediction_id": story.answered, "value": None}])
    assert (status, problem["status"]) == (422, 422)
    assert ask("POST", url, [{"client_id": "a", "value": 1}] * 10_001)[0] == 422
    lines = set(http.request("GET", f"{admin}/metrics").data.decode().splitlines())
    assert 'snowgate_labels_total{model="signs",version="2"} 1.0' in lines
    assert 'snowgate_label_accuracy_ratio{model="signs",version="2"} 1.0' in lines
    assert 'snowgate_label_rows{model="signs",version="2"} 1.0' in lines
    assert "snowgate_labels_unmatched 2000.0" in lines
    page = http.request("GET", f"{admin}/predictions/{story.answered}").data.decode()
    assert "What turned out to be true" in page
    assert "was right" in page


def predict(gateway: Gateway, client_id: str, values: list[list[float]]) -> str:
    """Ask, with the client's own id; return the prediction's."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(values), 3], "data": values}
    body = json.dumps({"id": client_id, "inputs": [tensor]}).encode()
    status, document, headers = gateway.post("/v2/models/signs/versions/1/infer", body)
    assert status == 200, document
    return str(headers["Snowgate-Prediction-Id"])


def test_labels_of_a_running_gateway(capsys: pytest.CaptureFixture[str], gateway: Gateway, tmp_path: Path) -> None:
    """The client's own ids, said to the server and to the files beside it, lead to the answers that were given."""
    first = predict(gateway, f"order-{tmp_path.name}-1", [[1, 2, 3]])
    second = predict(gateway, f"order-{tmp_path.name}-2", [[1, 2, 3], [-1, -2, -3]])
    client = f"order-{tmp_path.name}-1"
    code, out, err = run(
        capsys, "prediction", "label", "--server", gateway.control, "-o", "json", "--client-id", client, "0"
    )
    assert code == 0, err
    assert json.loads(out)["accepted"] + json.loads(out)["unmatched"] == 1
    said = wait_until(lambda: gateway.snowgate("prediction", "show", first)["labels"], what="the joined label")
    assert (said[0]["value"], said[0]["correct"], said[0]["client_id"]) == (0, True, client)
    done = gateway.snowgate("prediction", "label", f"{second}.1", "0", "--source", "ada")
    assert done["accepted"] == 1
    [said] = gateway.snowgate("prediction", "show", second)["labels"]
    assert (said["row"], said["correct"], said["source"]) == (1, False, "ada")
    code, out, _err = run(capsys, "prediction", "show", second, "--home", str(gateway.home))
    assert "label of row 1: 0 (by ada" in out
    metrics = gateway.http.request("GET", f"{gateway.control}/metrics").data.decode()
    assert 'snowgate_labels_total{model="signs",version="1"}' in metrics


def test_a_file_of_labels(capsys: pytest.CaptureFixture[str], story: Story, tmp_path: Path) -> None:
    """A CSV file's bad lines are named by their number and stop no other; sent twice it changes nothing."""
    file = tmp_path / "labels.csv"
    file.write_text(
        "prediction_id,value,time,camera\n"
        f"{story.answered},0,2026-11-24T12:00:00Z,7\n"
        "nonsense,0,,7\n"
        f"{STRANGER},snow,1700000000,7\n"
        f"{story.answered}.0,1,2026-11-24T13:00:00Z,7\n"
    )
    done = snowgate(story.home.path, "prediction", "label", "--file", str(file), status=1)
    assert [done[name] for name in ("accepted", "unmatched", "duplicate", "refused")] == [2, 1, 0, 1]
    assert [(one["line"], one["outcome"]) for one in done["problems"]] == [(3, "refused"), (4, "unmatched")]
    code, _out, err = run(capsys, "prediction", "label", "--home", str(story.home.path), "--file", str(file))
    assert code == 1
    assert "labels.csv line 3: prediction id 'nonsense'" in err
    again = snowgate(story.home.path, "prediction", "label", "--file", str(file), status=1)
    assert [again[name] for name in ("accepted", "unmatched", "duplicate", "refused")] == [0, 0, 3, 1]
    said = story.operations.prediction(story.answered)["labels"]
    assert [(one["value"], one["time"][:13], one["holds"]) for one in said] == [
        (0, "2026-11-24T12", False),
        (1, "2026-11-24T13", True),
    ]


def test_a_parquet_file_of_labels(story: Story, tmp_path: Path) -> None:
    """Parquet's columns are the same, with numbers as they are."""
    file = tmp_path / "labels.parquet"
    rows = {"prediction_id": [story.answered, STRANGER], "value": [0, 1], "row": [0, None], "extra": [1.5, 2.5]}
    parquet.write_table(Table.from_pydict(rows), file)
    done = snowgate(story.home.path, "prediction", "label", "--file", str(file))
    assert (done["accepted"], done["unmatched"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--file", "missing.csv"), 1, "No such file"),
        (("--file", "missing.parquet"), 1, "expected Parquet"),
        ((), 2, "expected ID and VALUE"),
        ((STRANGER,), 2, "expected ID and VALUE"),
        (("--client-id", "a"), 2, "expected VALUE"),
        (("--file", "x.csv", STRANGER, "7"), 2, "takes no ID"),
        (("nonsense", "7"), 1, "expected a UUID"),
    ],
)
def test_a_wrong_command_is_a_sentence(
    capsys: pytest.CaptureFixture[str], story: Story, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Each way to type it wrong is answered by what was expected."""
    found, _out, err = run(capsys, "prediction", "label", "--home", str(story.home.path), *arguments)
    assert (found, words in err) == (code, True), err


def test_a_file_without_its_columns_is_refused(
    capsys: pytest.CaptureFixture[str], story: Story, tmp_path: Path
) -> None:
    """A file whose heading names no value, or nothing that it is about, is refused as a whole."""
    file = tmp_path / "labels.csv"
    file.write_text("id,truth\n1,2\n")
    code, _out, err = run(capsys, "prediction", "label", "--home", str(story.home.path), "--file", str(file))
    assert code == 1
    assert "columns id, truth; expected value" in err
