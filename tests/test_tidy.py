"""The rules of the house that a machine can check: floors, cycles, hidden imports, lengths, words.

Every rule is a function from source to complaints, so that the tests below can show that it does complain.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from gateway.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGES = ("bundles", "gateway", "monitors", "state")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

FLOORS = (  # The longest name that fits decides. A module imports its own floor's package and what lies below.
    ("bundles", 0),
    ("state", 0),
    ("monitors.log", 1),
    ("monitors", 2),
    ("gateway", 3),
    ("gateway.app", 4),
    ("gateway.sealer", 4),
    ("gateway.cli", 5),
    ("gateway.commands", 5),
    ("gateway.demo", 5),
)
ALLOWED = {  # What a floor may import of ours, beside its own package.
    "bundles": (),
    "state": (),
    "monitors.log": (),
    "monitors": ("bundles", "monitors.log", "state"),
    "gateway": ("bundles", "monitors.log", "state"),
}
VAGUE = re.compile(r"(^|_)(utils?|common|helpers?|misc|stuff|manager)($|_)")
UNFINISHED = re.compile("TO" + r"DO|FIX" + r"ME|\bXX" + r"X\b|\bHA" + "CK")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:root|home|Users|mnt|wo[r]k)/\w")
RUNNER_MAY_IMPORT = {
    *sys.stdlib_module_names, "numpy", "torch", "safetensors", "onnx", "onnxruntime", "openvino",
    "lightgbm", "pandas", "PIL", "skops", "sklearn", "transformers", "xgboost",
}  # fmt: skip

Edge = tuple[str, str, int]


def modules() -> dict[str, Path]:
    """Every module of the source, by its dotted name; the demo's project is a user's, and stands outside."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "project" not in path.parts:
                found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def floor_of(module: str) -> tuple[str, int]:
    """Return the name and the number of the floor on which a module stands."""
    fits = [floor for floor in FLOORS if module == floor[0] or module.startswith(f"{floor[0]}.")]
    return max(fits, key=lambda floor: len(floor[0]))


def imports(module: str, path: Path, known: set[str]) -> Iterator[Edge]:
    """Yield what a module imports of ours, with the line; `from a import b` is an import of `a.b` when that exists."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] in PACKAGES:
                yield module, name, node.lineno


def edges() -> list[Edge]:
    """Return every import of ours by ours, and those that the command line does by name."""
    known = modules()
    found = [edge for module, path in known.items() for edge in imports(module, path, set(known))]
    return found + [("gateway.cli", place.partition(":")[0], 0) for place, _help in COMMANDS.values()]


def floor_complaint(edge: Edge) -> str | None:
    """Say why a module may not import another, or None when it may."""
    module, imported, line = edge
    (here, number), (there, below) = floor_of(module), floor_of(imported)
    allowed = below <= number if number >= 4 else here == there or there in ALLOWED[here]
    return None if allowed else f"{module}:{line}: floor {here} may not import {imported}"


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return a cycle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def hidden_imports(name: str, source: str) -> list[str]:
    """Find imports inside functions, except of an optional extra, where the error says what to install."""
    complaints = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        excused = {
            node.lineno
            for attempt in ast.walk(function)
            if isinstance(attempt, ast.Try) and any("install" in ast.unparse(one) for one in attempt.handlers)
            for part in attempt.body
            for node in ast.walk(part)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        complaints += [
            f"{name}:{node.lineno}: import hidden in {function.name}"
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in excused
        ]
    return complaints


def long_functions(name: str, source: str) -> list[str]:
    """Find functions that don't fit on a screen."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                complaints.append(f"{name}:{node.lineno}: {node.name} has {lines} lines, {FUNCTION_LINES_MAX} at most")
    return complaints


def late_types(name: str, source: str) -> list[str]:
    """Find decoders of a type that are made at each call: two threads that make the first one at once crash msgspec."""
    return [
        f"{name}:{node.lineno}: make msgspec.json.Decoder({word.value.id}) once, at import"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "decode"
        for word in node.keywords
        if word.arg == "type" and isinstance(word.value, ast.Name)
    ]


def own_files(*suffixes: str) -> list[Path]:
    """Return the files that git knows, or would take, with one of these endings."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    if not listed:  # An unpacked source archive has no git; then the folders are walked.
        walked = (path for folder in (*PACKAGES, "tests", "docs", ".ci") for path in (ROOT / folder).rglob("*"))
        listed = [str(path.relative_to(ROOT)) for path in walked if path.is_file() and "__pycache__" not in path.parts]
    paths = [ROOT / name for name in listed if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and "static" not in path.parts]


def name_of(path: Path) -> str:
    """Name a file as a complaint does."""
    return str(path.relative_to(ROOT))


def test_imports_go_down() -> None:
    """No module imports from a floor that it does not stand above, the lazy table of the command line included."""
    assert [complaint for edge in edges() if (complaint := floor_complaint(edge))] == []


@pytest.mark.parametrize(
    "edge",
    [
        ("bundles.digest", "gateway.routing", 1),
        ("monitors.log.reader", "monitors.incidents", 1),
        ("monitors.log.reader", "state", 1),
        ("monitors.watch", "gateway.settings", 1),
        ("gateway.predict", "monitors.watch", 1),
        ("gateway.predict", "gateway.app", 1),
        ("gateway.app", "gateway.cli", 1),
    ],
)
def test_an_import_that_goes_up_is_found(edge: Edge) -> None:
    """The rule of the floors complains about each kind of import that it forbids."""
    assert floor_complaint(edge)


def test_no_cycles() -> None:
    """No module needs itself, by whatever way. The command line's table is left out: it is what breaks that ring."""
    graph: dict[str, set[str]] = {}
    for module, imported, line in edges():
        if line and module != imported and not imported.startswith(f"{module}."):
            graph.setdefault(module, set()).add(imported)
    assert cycle_in(graph) == []
    assert cycle_in({"a": {"b"}, "b": {"a"}})


def test_no_hidden_imports() -> None:
    """Imports stand at the top of a file, except of an optional extra."""
    sources = [path for path in own_files(".py") if "tests" not in path.relative_to(ROOT).parts[:1]]
    sources = [path for path in sources if path.parent != ROOT / "bundles" / "runner"]
    assert [one for path in sources for one in hidden_imports(name_of(path), path.read_text())] == []
    assert hidden_imports("x", "def f():\n    import json")
    excused = "def f():\n    try:\n        import torch\n    except ImportError:\n        raise E('pip install x')"
    assert not hidden_imports("x", excused)


def test_the_runner_stands_alone() -> None:
    """The runner imports the standard library, numpy, its loaders' frameworks, and itself by relative imports."""
    for path in (ROOT / "bundles" / "runner").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert roots <= RUNNER_MAY_IMPORT, f"{name_of(path)}:{node.lineno}"


def test_types_are_worked_out_at_import() -> None:
    """A gateway prepares its bundles in parallel, so nothing works out a struct's types at its first use."""
    assert [one for path in modules().values() for one in late_types(name_of(path), path.read_text())] == []
    assert late_types("x", "msgspec.json.decode(data, type=Wire)")


def test_files_and_functions_fit() -> None:
    """No file is longer than 400 lines, no function longer than a screen."""
    files = own_files(".py")
    counted = {name_of(path): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in counted.items() if lines > FILE_LINES_MAX} == {}
    assert [one for path in files for one in long_functions(name_of(path), path.read_text())] == []
    assert long_functions("x", "def f():\n" + "    a = 1\n" * FUNCTION_LINES_MAX)


def test_names_say_what_is_inside() -> None:
    """No module is called after nothing in particular."""
    assert [name_of(path) for path in own_files(".py") if VAGUE.search(path.stem)] == []
    assert VAGUE.search("time_utils")


def test_scripts_hide_no_module_of_the_standard_library() -> None:
    """The folder of a script is the first where Python looks: a `profile` in it would stand for the library's own."""
    for folder in ("load_tests", "gateway/demo/project"):
        hidden = {path.stem for path in (ROOT / folder).glob("*.py")} & sys.stdlib_module_names
        assert not hidden, f"{folder}: {hidden}, expected a name that the standard library has not"


def test_nothing_is_left_unfinished() -> None:
    """No file holds a note to finish it, or a path of the machine on which it was written."""
    files = own_files(".py", ".md", ".toml", "Makefile", "Dockerfile", "run")
    texts = {name_of(path): path.read_text() for path in files}
    assert [name for name, text in texts.items() if UNFINISHED.search(text)] == []
    found = {name: match[0] for name, text in texts.items() if (match := MACHINE_PATH.search(text))}
    assert found == {}
    assert MACHINE_PATH.search("open('/" + "home/someone/x')")


def test_every_test_says_what_it_proves() -> None:
    """Each test has a docstring."""
    for path in own_files(".py"):
        if path.name.startswith("test_"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    assert ast.get_docstring(node), f"{name_of(path)}:{node.lineno}: {node.name}"


def test_dependencies_are_those_that_are_imported() -> None:
    """What the source imports is declared in pyproject.toml, and what is declared is imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_distribution(requirement) for requirement in project["dependencies"]}
    optional = project["optional-dependencies"]
    names = (
        "torch", "onnxruntime", "openvino", "otel", "parquet", "jsonpath", "images", "remote", "demo",
        "sklearn", "xgboost", "lightgbm", "huggingface", "adapters", "mlflow",
    )  # fmt: skip
    extras = {_distribution(one) for name in names for one in optional[name]}
    # Other distributions, which other libraries bring, have their packages in `google` too, and xgboost is also
    # to be had without the libraries for graphics cards, as xgboost-cpu.
    by_import = {**packages_distributions(), "google": ["protobuf"], "xgboost": ["xgboost"]}
    used = set()
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            for root in roots - set(sys.stdlib_module_names) - set(PACKAGES):
                named = {_distribution(name) for name in by_import.get(root, [root])}
                # Of distributions that share a namespace, those that are declared bring the others along.
                used |= named & (declared | extras) or named
    # FastAPI stands on starlette and jinja2 on markupsafe; uvicorn finds httptools by itself.
    # `compression` is Python's own since 3.14; before, backports.zstd has its zstd.
    assert used - declared - extras - {"starlette", "markupsafe", "compression"} == set()
    assert declared - used - {"httptools"} == set()


def _distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_all_of_the_source_is_packed() -> None:
    """What git knows of the packages goes into the wheel: in a package, or named as package data."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = [f"{package}/{pattern}" for package, listed in settings.items() for pattern in listed if package != "*"]
    named = {path for pattern in patterns for path in ROOT.glob(pattern)}
    for package in PACKAGES:
        for path in own_files(".py"):
            if path.is_relative_to(ROOT / package):
                assert (path.parent / "__init__.py").exists() or path in named, f"{name_of(path)}: not in the wheel"
