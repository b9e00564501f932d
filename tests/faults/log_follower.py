"""A process that follows a log under the name `witness`, and keeps what it reads in a file, until it is killed.

Called with the log's folder and the file. Each line of the file has what was read between two commits, and how many
records had been committed before it: what comes behind a commit that was never made is read again, and replaces it.
"""

import os
import random
import sys
import time
from pathlib import Path

import orjson

from monitors.log.cursors import take_name
from monitors.log.reader import LogReader

NAME = "witness"


def witnessed(path: Path) -> list[str]:
    """Return the ids in such a file, each as often as it was read behind the cursor."""
    ids: list[str] = []
    for line in path.read_bytes().splitlines():
        try:
            before, read = orjson.loads(line)
        except ValueError:
            continue  # It was killed while it wrote; it had not committed then.
        assert before <= len(ids), "the cursor is ahead of what was kept"
        ids[before:] = read
    return ids


def main() -> None:
    """Follow."""
    directory, path = Path(sys.argv[1]), Path(sys.argv[2])
    take_name(directory, NAME)
    follower = LogReader(directory).follow(NAME)
    # Behind what a killed one left of a line.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"\n")
    while True:
        before = follower.standing.records
        records = follower.read(random.randint(1, 200))
        if not records:
            time.sleep(0.005)
            continue
        os.write(file, orjson.dumps([before, [one.id for one in records]]) + b"\n")
        os.fdatasync(file)
        follower.commit()


if __name__ == "__main__":
    main()
