"""What can be wrong with a bundle. Each error's text names the thing, what it is, and what to type next.

BundleError
├── RecipeError       bundle.toml or a file that it names is not as it must be
├── CorruptBundle     a file is missing or is not what its digest says; `path` names it
├── UntrustedBundle   nobody whom this home trusts has signed it
├── MergeConflict     both sides changed the same; `conflicts` names what
├── AdapterError     a model of another tool is not as it must be, or would run code here
├── PolicyError       policy.toml is not as it must be
├── UnknownReference  no such model, version, ref or digest
├── RefConflict       somebody else moved the ref first
├── RecordingError    a training run can't be recorded
│   └── CommandFailed the command itself failed; `status` is its exit status
├── ReproductionError  a bundle can't be trained again here
├── RemoteError       a registry or folder elsewhere refuses, or does not do what it must
│   └── RemoteUnavailable  it can't be reached at this moment; worth another try
├── HomeError         the home folder can't be made, read or written
└── RunnerFailed      the runner did not start, or failed on a batch
"""


class BundleError(Exception):
    """Anything wrong with a bundle; `str(error)` is for a human."""


class RecipeError(BundleError):
    """bundle.toml, or a file that it names, is not as it must be."""


class CorruptBundle(BundleError):
    """A file of a bundle is missing, or is not what its digest says."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path} {message}")
        self.path = path


class UntrustedBundle(BundleError):
    """A bundle with executable content that nobody whom this home trusts has signed."""


class MergeConflict(BundleError):
    """Both sides changed the same thing differently; `conflicts` names each."""

    def __init__(self, conflicts: list[str]) -> None:
        super().__init__(f"{len(conflicts)} conflicts: {'; '.join(conflicts)}; change one side, or train on it by hand")
        self.conflicts = conflicts


class AdapterError(BundleError):
    """A model of another tool is not as it must be, or would run code here."""


class PolicyError(BundleError):
    """policy.toml is not as it must be, or refuses what was asked for."""


class UnknownReference(BundleError):
    """No such model, version, ref or digest in this home."""


class RefConflict(BundleError):
    """Somebody else moved the ref first."""


class RecordingError(BundleError):
    """A training run can't be recorded."""


class CommandFailed(RecordingError):
    """The training command failed; nothing is packed. `status` is what it exited with (negative: the signal)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ReproductionError(BundleError):
    """A bundle can't be trained again: nothing was recorded, or a change to the run can't be made."""


class DataLost(BundleError):
    """The bytes of a data file are nowhere, or what came has another digest."""


class RemoteError(BundleError):
    """A registry or folder elsewhere refuses, or does not do what it must."""


class RemoteUnavailable(RemoteError):
    """A registry or folder elsewhere can't be reached at this moment; `after` is how many seconds it asks to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class HomeError(BundleError):
    """The home folder can't be made, read or written."""


class EnvironmentFailed(BundleError):
    """The environment of a bundle can't be built here."""


class RunnerFailed(BundleError):
    """The runner did not start, or failed on a batch."""


class RunnerGone(RunnerFailed):
    """The runner can't be reached, or ended in the middle of a batch: perhaps no fault of the bundle's."""
