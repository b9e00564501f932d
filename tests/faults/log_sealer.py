"""A process that seals a home's log, a segment at a time, until it is killed; it says when it begins."""

import sys
import time
from pathlib import Path

from bundles.home import Home
from tests.monitors.log.archive import sealer


def main() -> None:
    """Seal."""
    work = sealer(Home(Path(sys.argv[1])))
    sys.stdout.write("begins\n")
    sys.stdout.flush()
    work.start()
    while True:
        if work.turn() is None:
            time.sleep(0.001)


if __name__ == "__main__":
    main()
