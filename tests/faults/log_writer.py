"""A process that writes a log and tells on stdout what became of each record; the tests end it as they like.

Called with folder, name, segment size and the size that no file may pass (0: any). Each line on stdin is a number of
records to write; the answer is one line of JSON: `{"durable": [id…], "refused": {id: errno}}`. The line `stream` makes
it write without end, from two threads, and print each id as soon as it is durable.
"""

import json
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Any

from monitors.log.writer import SegmentWriter
from tests.monitors.log.logbook import Logbook, record


def stream(folder: Path, name: str, segment_bytes: int) -> None:
    """Write until killed."""
    room = threading.Semaphore(64)

    def done(tokens: list[Any], error: OSError | None) -> None:
        assert error is None
        # Whole lines in one write: what the parent has read of them was durable before the signal came.
        os.write(1, "".join(f"{token}\n" for token in tokens).encode())
        for _ in tokens:
            room.release()

    writer = SegmentWriter(folder, name, done, segment_bytes=segment_bytes)

    def write() -> None:
        while True:
            room.acquire()
            one = record(data=os.urandom(200))
            writer.append(one, one.id)

    for _ in range(2):
        threading.Thread(target=write).start()


def main() -> None:
    """Do what stdin says."""
    folder, name, segment_bytes, file_bytes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    first = sys.stdin.readline()
    if first == "stream\n":
        stream(folder, name, segment_bytes)
        return
    book = Logbook(folder, name, segment_bytes)
    while first:
        ids = book.write([record(data=os.urandom(1000)) for _ in range(int(first))])
        durable = [one for one in ids if one in set(book.durable)]
        refused = {one: book.refused[one].errno for one in ids if one in book.refused}
        sys.stdout.write(json.dumps({"durable": durable, "refused": refused}) + "\n")
        sys.stdout.flush()
        first = sys.stdin.readline()
    book.close()


if __name__ == "__main__":
    main()
