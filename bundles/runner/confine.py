"""Confinement: what this process gives up before the model's code runs, for itself and all that it starts.

    privileges   no capabilities, also where the gateway runs as root, and no program that it starts can get any back;
                 no core dumps, and no more descriptors than a runner needs
    network      sockets of this machine only (unix, netlink): a seccomp filter, which needs no rights of its own
    files        reads where programs and the bundle lie, writes in its own scratch folder, devices for computing;
                 no signal and no look into a process that is not its own: Landlock

Before numpy is imported: a thread that was there before would keep what is given up here. What the kernel does not
offer is said, never left out in silence. Linux, x86-64 and aarch64; the standard library only.
"""

import argparse
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

ON = "on"
KINDS = ("privileges", "network", "files")
DESCRIPTORS_MAX = 4_096
"""A runner has a connection a worker; frameworks open the files of their libraries, some hundred."""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 24, 38, 2
CAPABILITIES = range(64)
CAPABILITY_VERSION = 0x20080522
SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: how the kernel names its calls (linux/audit.h), and the number of `socket`."""
IO_URING_SETUP = 425
"""It could make sockets past the filter."""
FAMILIES = (1, 16)
"""AF_UNIX, and AF_NETLINK, by which libraries ask the kernel about devices."""

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
EXECUTE, WRITE, READ, LIST, TRUNCATE, IOCTL = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
ALL_BY_VERSION = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
"""All rights on files that a version of Landlock knows, by its number (linux/landlock.h)."""
SCOPES = 3
"""Since version 6: no abstract sockets of others, no signals to others."""
READABLE = (
    "/bin", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/sbin", "/sys", "/usr",
    "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/nsswitch.conf",
    "/etc/OpenCL", "/etc/os-release", "/etc/passwd", "/etc/timezone",
)  # fmt: skip
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - it has no other place
DEVICES = ("null", "zero", "full", "random", "urandom", "dri", "kfd", "nvidia*")


def confine(readable: Iterable[str], scratch: str) -> dict[str, str]:
    """Give up what a runner does not need; return by kind `on`, or why it is not."""
    if sys.platform != "linux":
        return dict.fromkeys(KINDS, f"not confined: {sys.platform} is not Linux")
    return {
        "privileges": _said(_privileges),
        "network": _said(_network),
        "files": _said(lambda: _files([*READABLE, *_interpreter(), *readable], scratch)),
    }


def from_arguments(arguments: Sequence[str], *readable: str) -> dict[str, str]:
    """Confine this process if its command line asks for it; an unpacked bundle can be read."""
    if "--confine" not in arguments:
        return dict.fromkeys(KINDS, "not asked for")
    scratch, directory = (arguments[arguments.index(name) + 1] for name in ("--confine", "--directory"))
    return confine([*readable, directory], scratch)


def offered() -> dict[str, str]:
    """Say what this kernel offers, without giving up anything."""
    machine = platform.machine()
    network = ON if machine in SOCKET_CALLS else f"not confined: no filter is known for {machine}"
    if not Path("/proc/sys/kernel/seccomp").exists():
        network = "not confined: the kernel has no seccomp filters"
    return {"privileges": ON, "network": network, "files": _said(_landlock_version)}


def _said(give_up: Callable[[], object]) -> str:
    try:
        give_up()
    except OSError as error:
        return f"not confined: {error.strerror or error}"
    return ON


def _interpreter() -> list[str]:
    """Where the interpreter and its packages lie."""
    return [sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent), *sys.path]


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(what: str, *arguments: object) -> None:
    numbers = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    padding = [ctypes.c_ulong(0)] * (5 - len(numbers))
    _checked(ctypes.CDLL(None, use_errno=True).prctl(*numbers, *padding), what)


def _privileges() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    _prctl("no-new-privileges", PR_SET_NO_NEW_PRIVS, 1)
    for capability in CAPABILITIES:
        # Refused where there is none to drop, and beyond the last one that this kernel knows.
        with suppress(OSError):
            _prctl("capability", PR_CAPBSET_DROP, capability)
    nothing = struct.pack("6I", *[0] * 6)  # Effective, permitted and inheritable, of 32 capabilities each, twice.
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    _checked(ctypes.CDLL(None, use_errno=True).capset(header, nothing), "capabilities")


def _network() -> None:
    machine = platform.machine()
    if machine not in SOCKET_CALLS:
        raise OSError(f"no filter is known for {machine}")
    code = _filter(*SOCKET_CALLS[machine])
    program = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    described = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(program)))
    _prctl("seccomp", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described)


def _filter(machine: int, socket_call: int) -> bytes:
    """Return a program in classic BPF over `struct seccomp_data`: call at 0, machine at 4, first argument at 16."""
    load, equal, at_least, done = 0x20, 0x15, 0x35, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | 13  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EACCES
    other_calls = 0x40000000  # The calls of 32-bit programs on x86-64 are beyond, and would get past the numbers here.
    program = [
        (load, 0, 0, 4),
        (equal, 0, 8, machine),
        (load, 0, 0, 0),
        (at_least, 6, 0, other_calls),
        (equal, 5, 0, IO_URING_SETUP),
        (equal, 0, 3, socket_call),
        (load, 0, 0, 16),
        (equal, 1, 0, FAMILIES[0]),
        (equal, 0, 1, FAMILIES[1]),
        (done, 0, 0, allow),
        (done, 0, 0, refuse),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _landlock_version() -> int:
    version = ctypes.CDLL(None, use_errno=True).syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return _checked(version, "the kernel has no Landlock")


def _files(readable: Sequence[str], scratch: str) -> None:
    version = _landlock_version()
    every = ALL_BY_VERSION[min(version, len(ALL_BY_VERSION) - 1)]
    attributes = struct.pack("QQQ", every, 0, SCOPES if version >= 6 else 0)[: 24 if version >= 6 else 8]
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    _checked(ruleset, "Landlock")
    try:
        for path in readable:
            _allow(libc, ruleset, path, every & (EXECUTE | READ | LIST))
        for device in (one for pattern in DEVICES for one in Path("/dev").glob(pattern)):
            _allow(libc, ruleset, str(device), every & (READ | LIST | WRITE | TRUNCATE | IOCTL))
        for path in (scratch, SHARED_MEMORY):
            _allow(libc, ruleset, path, every)
        _checked(libc.syscall(LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)), "Landlock")
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    """Allow some rights in and below a path; one that is not there needs none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not Path(path).is_dir():
                rights &= EXECUTE | WRITE | READ | TRUNCATE | IOCTL
            rule = struct.pack("=Qi", rights, place)
            _checked(libc.syscall(LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)), path)
        finally:
            os.close(place)


def main() -> None:
    """Confine this process, say in a file what came of it, and become the command, with the limits that were given."""
    parser = argparse.ArgumentParser(prog="confine")
    parser.add_argument("--scratch", required=True, help="the only folder in which it can write")
    parser.add_argument("--report", required=True, metavar="FILE")
    parser.add_argument("--cpu-seconds", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        _prctl("parent", PR_SET_PDEATHSIG, int(signal.SIGKILL))
    with Path(arguments.report).open("w") as report:
        json.dump(confine([], arguments.scratch), report)
    # Not the address space: frameworks reserve a hundred times of what they use.
    for limit, most in ((resource.RLIMIT_CPU, arguments.cpu_seconds), (resource.RLIMIT_DATA, arguments.memory_bytes)):
        hard = resource.getrlimit(limit)[1]
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (lower, lower))
    try:
        os.execvp(arguments.command[0], arguments.command)  # noqa: S606 - it is what was recorded, and no shell
    except OSError as error:
        sys.exit(f"{arguments.command[0]}: can't be started: {error.strerror}")


if __name__ == "__main__":
    main()
