"""How results are printed."""

import json
from typing import Any

import pytest

from gateway.output import Column, facts, show

ROWS: list[dict[str, Any]] = [
    {"id": "a", "share": 0.123456, "refs": ["x", "y"], "none": None, "text": 'say: "no"\n#1'},
    {"id": "bb", "share": 1.0, "refs": [], "none": None, "text": "- yes"},
]
COLUMNS: list[Column] = [("id", lambda one: one["id"]), ("share", lambda one: one["share"])]


def test_json_carries_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is the data itself, and an empty list is []."""
    show(ROWS, "json", columns=COLUMNS)
    assert json.loads(capsys.readouterr().out) == ROWS
    show([], "json", columns=COLUMNS)
    assert json.loads(capsys.readouterr().out) == []


def test_yaml_is_lists_and_mappings_in_block_form(capsys: pytest.CaptureFixture[str]) -> None:
    """YAML keeps structure by indentation, and quotes text so that nothing is taken for another type."""
    show(ROWS, "yaml")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '- "id": "a"'
    assert '  "refs":' in lines
    assert '    - "x"' in lines
    assert '  "refs": []' in lines
    assert r'  "text": "say: \"no\"\n#1"' in lines
    assert '  "none": null' in lines


def test_name_prints_one_name_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o name` is for a shell's loop."""
    show(ROWS, "name")
    assert capsys.readouterr().out == "a\nbb\n"


def test_table_is_aligned_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """A table has headings, aligned columns, short numbers, and no control characters."""
    show(ROWS, "table", columns=COLUMNS)
    assert capsys.readouterr().out.splitlines() == ["ID   SHARE", "a    0.1235", "bb   1"]


def test_an_empty_table_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """A note that there is nothing is no data."""
    show([], "table", columns=COLUMNS)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "(none)\n"


def test_facts_leave_out_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """Named facts are aligned; unknown and empty ones are left out, zero and False are not."""
    facts([("model", "signs"), ("by", None), ("canary", 0), ("refs", []), ("dirty", False)])
    assert capsys.readouterr().out.splitlines() == ["model    signs", "canary   0", "dirty    False"]
