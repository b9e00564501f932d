"""What differs between two sets of named values."""

from collections.abc import Mapping
from typing import Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was added, removed or changed, by name.

    >>> for one in changes({"lr": "0.1", "width": 8}, {"lr": "0.2", "depth": 2}):
    ...     print(one["change"], one["name"], one["before"], one["after"])
    added depth None 2
    changed lr 0.1 0.2
    removed width 8 None
    """
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            change = "added"
        elif name not in after:
            change = "removed"
        elif before[name] != after[name]:
            change = "changed"
        else:
            continue
        found.append({"name": name, "change": change, "before": before.get(name), "after": after.get(name)})
    return found
