"""The home folder: all that lasts, on one machine.

bundles/  refs.git/  log/  state.db  keys/  data/  environments/  wheels/  lock  policy.toml
"""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bundles.data import DataStore
from bundles.environments import Environments
from bundles.errors import HomeError
from bundles.policy import Policy
from bundles.policy_file import FILE as POLICY
from bundles.policy_file import home_policy, read_policy
from bundles.refs import GitRefs
from bundles.signing import Keys
from bundles.store import OciStore
from bundles.wheels import Wheels


@dataclass(frozen=True)
class Home:
    """One home folder; opening its parts is cheap, and safe beside a running `snowgate serve`."""

    path: Path
    policy_file: Path | None = None
    """Where the policy is when it is not in the folder itself: it must be there then."""

    @property
    def log(self) -> Path:
        """The prediction log's folder."""
        return self.path / "log"

    @property
    def state(self) -> Path:
        """The file of live state."""
        return self.path / "state.db"

    @property
    def run(self) -> Path:
        """What a running gateway unpacks; nothing in it lasts."""
        return self.path / "run"

    def make(self) -> "Home":
        """Make the folder when it is not there, and check that it can be written. Raises HomeError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / ".gitignore").exists():
                # A home often lies in a project's folder, and its keys must not follow the project into git, nor into
                # the source archive of a recorded run.
                (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            msg = f"home {self.path}: can't be made or written: {error.strerror}; give another folder with --home"
            raise HomeError(msg) from error
        for part in ("log", "keys", "run", "bundles", "refs.git"):
            if (self.path / part).exists() and not (self.path / part).is_dir():
                msg = f"home {self.path}: {part} is a file, expected a folder; move it away, or give another --home"
                raise HomeError(msg)
        if not os.access(self.path, os.W_OK | os.X_OK):
            msg = f"home {self.path}: can't be written by this user; give another folder with --home"
            raise HomeError(msg)
        return self

    def store(self) -> OciStore:
        """Open the bundles."""
        return OciStore(self.path / "bundles")

    def refs(self) -> GitRefs:
        """Open the refs."""
        return GitRefs(self.path / "refs.git")

    def keys(self) -> Keys:
        """Open the keys."""
        return Keys(self.path / "keys")

    def policy(self) -> Policy:
        """Read whose words count, and what is asked of bundles. Raises PolicyError, BundleError."""
        file = self.policy_file or self.path / POLICY
        if self.policy_file is not None or file.exists():
            return read_policy(file)
        return home_policy(self.keys())

    def environments(self) -> Environments:
        """Open the environments of bundles that need their own."""
        return Environments(self.path / "environments")

    def wheels(self) -> Wheels:
        """Open what is known of the wheels of packages."""
        return Wheels(self.path / "wheels")

    def data(self) -> DataStore:
        """Open the kept copies of data files."""
        return DataStore(self.path / "data")

    def lock(self) -> IO[str]:
        """Take the lock of the one gateway that serves this home, until the file is closed. Raises HomeError."""
        file = (self.make().path / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            msg = f"home {self.path}: already served by {owner}; stop it first, or give another folder with --home"
            raise HomeError(msg) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        return file
