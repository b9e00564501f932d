"""Start by path: make this folder a package under a name of its own, so that its relative imports work anywhere."""

import importlib.util
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Before numpy is imported. Rows are batched instead: several runners with a thread each beat one with several, and
    # threads that spin for work on a shared core make a small batch some times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _here = Path(__file__).resolve().parent
    _spec = importlib.util.spec_from_file_location(
        "snowgate_runner", _here / "__init__.py", submodule_search_locations=[str(_here)]
    )
    assert _spec is not None, f"{_here} is not a package"
    assert _spec.loader is not None, f"{_here} has no loader"
    _package = importlib.util.module_from_spec(_spec)
    sys.modules["snowgate_runner"] = _package
    _spec.loader.exec_module(_package)
    # This folder was the first entry of the path; its `signals` and `server` must not shadow a model's own modules.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _here]
    # Before numpy is imported, too: of threads only those that come later are confined.
    _confined = importlib.import_module("snowgate_runner.confine").from_arguments(sys.argv, str(_here))
    importlib.import_module("snowgate_runner.server").main(_confined)
