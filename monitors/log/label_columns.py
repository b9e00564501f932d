"""Labels as columns of the inference table: what holds of each row by now.

They are joined when a question is asked, and are not in the files of the predictions: a label comes late and may be
corrected, and what is projected stays as it is. Who reads Parquet finds them in files of their own (`label_files`). A
row without a label of its own has the one of its whole request.
"""

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitors.log.labels import FILE, LABEL, LabelStore

LABEL_COLUMNS = {
    "label": ("string", "What turned out to be true of the row, as text; null where nobody has said it."),
    "label_time": ("timestamp", "When it was found out, UTC."),
    "label_source": ("string", "Who said so."),
}
"""Behind the columns of the record, with their types and meanings."""
LABEL_FILE_COLUMNS = {
    "prediction_id": ("string", "The prediction."),
    "row": ("int32", "Which row of it, from 0."),
    "label": ("string", "What turned out to be true of the row, as text."),
    "label_time": ("timestamp", "When it was found out, UTC."),
    "label_source": ("string", "Who said so."),
    "label_correct": ("bool", "Whether the class that was predicted was right; null where no class was."),
    "label_loss": ("double", "The squared error of the value that was predicted; null where none was."),
}
"""Always there. A label with another name is the text in `label_NAME`."""
KEY = ("prediction_id", "row")


def held(directory: Path, since: float) -> dict[str, list[Any]]:
    """Return the labels that hold of predictions since a moment: `KEY` (row null: all of them), `LABEL_COLUMNS`."""
    found: dict[str, list[Any]] = {name: [] for name in (*KEY, *LABEL_COLUMNS)}
    if not (directory / FILE).exists():
        return found
    with closing(LabelStore(directory)) as store:
        for part in store.current(since):
            chosen = [place for place, name in enumerate(part["label_name"]) if name == LABEL]
            for name, cells in found.items():
                cells += [part[name][place] for place in chosen]
    found["label_time"] = [datetime.fromtimestamp(one, UTC) for one in found["label_time"]]
    return found


class HeldLabels:
    """The same, to be looked up."""

    def __init__(self, directory: Path, since: float) -> None:
        columns = held(directory, since)
        keys = zip(*(columns[name] for name in KEY), strict=True)
        cells = zip(*(columns[name] for name in LABEL_COLUMNS), strict=True)
        self._labels = dict(zip(keys, cells, strict=True))

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the label columns of a row of the inference table; nothing where it has no label."""
        whole = self._labels.get((row["prediction_id"], None), ())
        return dict(zip(LABEL_COLUMNS, self._labels.get((row["prediction_id"], row["row"]), whole), strict=False))
