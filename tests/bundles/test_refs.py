import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundles.errors import BundleError, HomeError, RefConflict, UnknownReference
from bundles.refs import LOCK_SECONDS, GitRefs

ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
PRODUCTION = "refs/environments/production/signs"

# A real process that moves one ref as often as asked, by compare-and-swap, each time adding one to what it read.
COUNTING = """
import sys
from pathlib import Path
from bundles.errors import RefConflict
from bundles.refs import GitRefs

refs, name, wins = GitRefs(Path(sys.argv[1])), sys.argv[2], 0
while wins < int(sys.argv[3]):
    seen = refs.get(name)
    count = 0 if seen is None else seen.details["count"]
    try:
        refs.set(name, "sha256:" + "1" * 64, expected=None if seen is None else seen.commit,
                 actor="counter", reason="more", details={"count": count + 1})
    except RefConflict:
        continue
    wins += 1
"""

# A real process that tries each move that it is told to try: from this commit, to a digest of its own.
CONTESTING = """
import sys
from pathlib import Path
from bundles.errors import RefConflict
from bundles.refs import GitRefs

refs, name, digest = GitRefs(Path(sys.argv[1])), sys.argv[2], "sha256:" + sys.argv[3] * 64
for line in sys.stdin:
    try:
        moved = refs.set(name, digest, expected=line.strip(), actor=sys.argv[3], reason="mine")
    except RefConflict as error:
        print("lost", error, flush=True)
    else:
        print("won", moved.commit, flush=True)
"""

CLAIMING = """
import sys
from pathlib import Path
from bundles.refs import GitRefs

refs = GitRefs(Path(sys.argv[1]))
print(*[refs.claim_version("signs", "sha256:" + "1" * 64, actor="packer", details={}) for _ in range(int(sys.argv[2]))])
"""


@pytest.fixture
def refs(tmp_path: Path) -> GitRefs:
    """Return an empty repository of refs."""
    return GitRefs(tmp_path / "refs.git")


def put(refs: GitRefs, name: str, digest: str | None, reason: str = "because") -> None:
    """Move a ref from wherever it is."""
    seen = refs.get(name)
    refs.set(name, digest, expected=None if seen is None else seen.commit, actor="ana", reason=reason)


def run_all(program: str, *arguments: str, processes: int) -> list[str]:
    """Run a program in several processes at once and return what each printed."""
    command = [sys.executable, "-c", program, *arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return said


def test_a_ref_says_what_who_why_and_when(refs: GitRefs) -> None:
    """What was set is what is read, in another process's eyes too."""
    made = refs.set(PRODUCTION, ONE, expected=None, actor="Ana <a@b.c>", reason="it is better", details={"canary": 5})
    read = GitRefs(refs._path).get(PRODUCTION)
    assert read == made
    assert read.digest == ONE
    assert read.reason == "it is better"
    assert read.details == {"canary": 5}
    assert read.time.endswith("Z")
    assert len(read.time) == len("2026-01-01T00:00:00.000000Z")
    assert "Ana" in read.actor


def test_a_move_from_an_old_place_is_a_conflict(refs: GitRefs) -> None:
    """Compare-and-swap: who did not see the last move does not undo it."""
    first = refs.set(PRODUCTION, ONE, expected=None, actor="ana", reason="1")
    second = refs.set(PRODUCTION, TWO, expected=first.commit, actor="ben", reason="2")
    for expected in (first.commit, None):
        with pytest.raises(RefConflict, match="somebody else moved it first"):
            refs.set(PRODUCTION, ONE, expected=expected, actor="cem", reason="3")
    assert refs.get(PRODUCTION) == second


def test_the_history_is_what_the_ref_named(refs: GitRefs) -> None:
    """Newest first, with reasons, also over a time in which it named nothing."""
    for digest, reason in ((ONE, "a"), (None, "b"), (TWO, "c")):
        put(refs, PRODUCTION, digest, reason)
    assert [(one.digest, one.reason) for one in refs.history(PRODUCTION)] == [(TWO, "c"), (None, "b"), (ONE, "a")]
    assert [one.reason for one in refs.history(PRODUCTION, limit=1)] == ["c"]
    assert refs.history("refs/heads/signs/nothing") == []


def test_contested_moves_of_real_processes_lose_none(tmp_path: Path) -> None:
    """Four processes move one ref 75 times each: the 300 moves are all in the count and in the history."""
    path = tmp_path / "refs.git"
    run_all(COUNTING, str(path), PRODUCTION, "75", processes=4)
    history = GitRefs(path).history(PRODUCTION, limit=1_000)
    assert [ref.details["count"] for ref in history] == list(range(300, 0, -1))


def test_of_two_writers_exactly_one_wins_each_round(tmp_path: Path) -> None:
    """Two processes try 250 times to move one ref from the same place: one gets it, the other is told what to do."""
    refs = GitRefs(tmp_path / "refs.git")
    at = refs.set(PRODUCTION, ONE, expected=None, actor="ana", reason="first").commit
    command = [sys.executable, "-c", CONTESTING, str(tmp_path / "refs.git"), PRODUCTION]
    contesting = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for name in "ab"
    ]
    winners = []
    for _round in range(250):
        for one in contesting:
            assert one.stdin is not None
            one.stdin.write(f"{at}\n")
        said = [one.stdout.readline().strip() if one.stdout else "" for one in contesting]
        lost, won = sorted(said)
        assert won.startswith("won "), said
        assert lost == f"lost {PRODUCTION}: somebody else moved it first; look at what it is now, and try again"
        at = won.removeprefix("won ")
        winners.append(said.index(won))
    for one in contesting:
        one.communicate()
    history = refs.history(PRODUCTION, limit=1_000)
    assert [one.digest for one in history] == [f"sha256:{'ab'[one] * 64}" for one in reversed(winners)] + [ONE]


def test_versions_are_given_once(tmp_path: Path) -> None:
    """Four processes claim 20 versions each in a repository that none of them has made: 1 to 80, each once."""
    said = run_all(CLAIMING, str(tmp_path / "refs.git"), "20", processes=4)
    assert sorted(int(version) for line in said for version in line.split()) == list(range(1, 81))


def test_versions_go_on_after_the_highest_number(refs: GitRefs) -> None:
    """Ten comes after nine, and a tag that is no number is passed over."""
    for name in ("9", "v10", "1.5"):
        put(refs, f"refs/tags/signs/{name}", ONE)
    assert refs.claim_version("signs", ONE, actor="ana", details={}) == "10"
    assert refs.claim_version("signs", ONE, actor="ana", details={}) == "11"


def test_the_change_token_changes_with_every_move(refs: GitRefs) -> None:
    """A poller misses no move, however fast one follows the other; reading changes nothing."""
    seen = [refs.version()]
    for number in range(30):
        put(refs, PRODUCTION, ONE if number % 2 else TWO)
        assert refs.version() == refs.version()
        seen.append(refs.version())
    assert len(set(seen)) == 31


def test_references_are_resolved(refs: GitRefs) -> None:
    """Version, branch, environment and digest, whole or its beginning, lead to the same bundle."""
    refs.claim_version("signs", ONE, actor="ana", details={})
    put(refs, "refs/heads/signs/main", ONE)
    put(refs, PRODUCTION, ONE)
    for reference in ("signs@1", "signs@main", "signs@production", ONE, ONE[:20]):
        assert refs.resolve(reference) == (ONE, "signs", "1")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("signs@7", "versions of signs: 1, 2"),
        ("sings@1", "no model 'sings'"),
        ("signs", "expected model@version"),
        ("signs@../../HEAD", "unknown"),
        ("sha256:1", "give more digits"),
        ("sha256:99999999", "names 0 bundles"),
        ("", "expected model@version"),
    ],
)
def test_an_unknown_reference_says_what_there_is(refs: GitRefs, reference: str, said: str) -> None:
    """The error names what was asked, and helps to find what was meant."""
    refs.claim_version("signs", ONE, actor="ana", details={})
    refs.claim_version("signs", TWO, actor="ana", details={})
    with pytest.raises(UnknownReference) as caught:
        refs.resolve(reference)
    assert said in str(caught.value)
    assert repr(reference) in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", "a.lock", "-a", "a b", "a\n", "ü", "a" * 129])
def test_names_that_could_do_harm_are_refused(refs: GitRefs, name: str) -> None:
    """A name becomes a path, a part of a URL and a metric label; it can't be more than a name."""
    with pytest.raises(BundleError):
        refs.claim_version(name, ONE, actor="ana", details={})
    with pytest.raises(BundleError):
        refs.set(f"refs/heads/signs/{name}", ONE, expected=None, actor="ana", reason="")
    with pytest.raises(BundleError):
        refs.set(f"refs/notes/signs/{name}", ONE, expected=None, actor="ana", reason="")
    with pytest.raises(BundleError):
        refs.set(f"refs/proposals/{name}", ONE, expected=None, actor="ana", reason="")


def test_an_actor_cannot_forge_a_field_of_git(refs: GitRefs) -> None:
    """Line ends and angle brackets in a name or reason stay in the name or reason."""
    refs.set(PRODUCTION, ONE, expected=None, actor="x>\nparent 123\n<y", reason="a\nb\0c")
    ref = refs.get(PRODUCTION)
    assert ref is not None
    assert "\n" not in ref.actor
    assert len(refs.history(PRODUCTION)) == 1


def test_the_lock_of_a_killed_process_is_cleared(refs: GitRefs) -> None:
    """A lock file that is older than any move takes was left behind, and stops nobody for ever."""
    put(refs, PRODUCTION, ONE)
    left = refs._path / f"{PRODUCTION}.lock"
    left.write_bytes(b"")
    then = left.stat().st_mtime - LOCK_SECONDS - 1
    os.utime(left, (then, then))
    put(refs, PRODUCTION, TWO)
    ref = refs.get(PRODUCTION)
    assert ref is not None
    assert ref.digest == TWO
    assert not left.exists()


def test_a_damaged_object_is_named(refs: GitRefs) -> None:
    """A byte that was flipped in the repository is an error with the ref's name, and not a wrong answer."""
    put(refs, PRODUCTION, ONE)
    for path in (refs._path / "objects").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.chmod(0o600)
            path.write_bytes(data)
    with pytest.raises(HomeError, match=PRODUCTION):
        GitRefs(refs._path).get(PRODUCTION)


@pytest.mark.skipif(shutil.which("git") is None, reason="git itself is the second reader")
def test_git_reads_it_and_may_pack_it(refs: GitRefs) -> None:
    """It is a repository: git finds it sound, and after git has packed everything we still read and move the refs."""
    for digest in (ONE, TWO):
        put(refs, PRODUCTION, digest)
    refs.claim_version("signs", ONE, actor="ana", details={})
    for arguments in (("fsck", "--strict"), ("gc", "--quiet", "--prune=now")):
        subprocess.run(["git", "--git-dir", str(refs._path), *arguments], check=True, capture_output=True)
    assert not (refs._path / PRODUCTION).exists(), "git has packed it"
    assert [ref.digest for ref in refs.history(PRODUCTION)] == [TWO, ONE]
    before = refs.version()
    put(refs, PRODUCTION, ONE)
    assert refs.version() != before
    assert refs.claim_version("signs", ONE, actor="ana", details={}) == "2"


@pytest.mark.skipif(shutil.which("git") is None, reason="git packs them")
def test_names_that_begin_alike_are_not_mixed_up(refs: GitRefs) -> None:
    """Versions of `sign` and of `signs` are listed apart, as loose files and after git has packed them."""
    for model, digest in (("sign", ONE), ("signs", TWO)):
        refs.claim_version(model, digest, actor="packer", details={})
    listed = {
        "refs/tags/sign/": ["refs/tags/sign/1"],
        "refs/tags/signs/": ["refs/tags/signs/1"],
        "refs/tags/": ["refs/tags/sign/1", "refs/tags/signs/1"],
        "refs/heads/": [],
    }
    for packed in (False, True):
        if packed:
            subprocess.run(["git", "--git-dir", str(refs._path), "pack-refs", "--all"], check=True)
        assert {prefix: [ref.name for ref in refs.list(prefix)] for prefix in listed} == listed
        assert (refs.version_of(ONE, "sign"), refs.version_of(ONE, "signs")) == ("1", None)


def test_a_folder_that_is_no_repository_is_said(tmp_path: Path) -> None:
    """Something else in the place of the repository, or below a file, is one clear sentence."""
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "HEAD").write_text("")
    for path in (tmp_path / "file" / "refs.git", tmp_path / "other"):
        with pytest.raises(HomeError, match="--home"):
            GitRefs(path)
