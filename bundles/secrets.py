"""Secrets, so that none enters a record: what looks like one is refused by its name, and never printed.

A value is a secret by its own shape, as tokens of well-known services have one; or by its name, `--api-key`, when it is
long enough to be one; or when a name speaks of keys anywhere and the value looks like chance. A secret that has none of
this is not noticed: the environment is an allow-list because of that.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping

from bundles.errors import RecordingError

SHAPES = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    "a GitLab token": r"\bglpat-[\w-]{20,}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "a Google API key": r"\bAIza[\w-]{35}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a PyPI token": r"\bpypi-[\w-]{50,}",
    "an API key that begins with sk-": r"\bsk-(?=[\w-]*\d)[\w-]{20,}",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
    "a bearer token": r"\b[Bb]earer\s+(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
TOKEN = re.compile("|".join(f"({shape})" for shape in SHAPES.values()))
MARKS = ("AKIA", "ASIA", "gh", "glpat-", "xox", "AIza", "hf_", "pypi-", "sk-", "eyJ", "earer", "PRIVATE KEY")
"""One of these is in every token: texts that have none are passed quickly."""
FILE = re.compile(
    r"(^|/)(\.env(\.[^/]+)?|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?"
    r"|[^/]+\.(pem|key|p12|pfx|jks))$"
)
NAME = re.compile(
    r"(^|[-_.])(token|secret|password|passwd|passphrase|credentials?|(api|access|private)[-_.]?key)$", re.IGNORECASE
)
NAME_CHARACTERS_MIN = 8
"""What is shorter is no secret worth the name, but a `--pad-token` perhaps."""
VAGUE_NAME = re.compile(r"(?i)(^|[-_.])(tokens?|secrets?|passwords?|pass|pwd|credentials?|auth|keys?)($|[-_.])")
CHANCE = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+/_]{20,}={0,2}")
CHANCE_BITS_MIN = 3.3
"""Bits a character: 20 of base64 by chance have 3.9 on average, 32 hexadecimal digits 3.6."""
URL_USER = re.compile(r"(?i)(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/?#@:]*)(?::[^\s/?#@]*)?@")
URL_ARGUMENT = re.compile(
    r"(?<=[?&])(?:[\w-]*(?:signature|token|secret|password|credential)|sig|api[_-]?key|access[_-]?key)=[^\s&#]+",
    re.IGNORECASE,
)
REDACTED = "[redacted]"


def refuse(values: Mapping[str, str]) -> None:
    """Let values pass that are no secrets. Raises RecordingError with the name of the first that looks like one."""
    for name, value in values.items():
        kind = kind_of(value)
        by_name = NAME.search(name) and len(value) >= NAME_CHARACTERS_MIN
        if kind or by_name or (VAGUE_NAME.search(name) and _is_chance(value)):
            like = f"a secret: {kind}" if kind else "a secret"
            raise RecordingError(f"{name}: looks like {like}, and would be recorded; give it by the environment")


def kind_of(text: str) -> str | None:
    """Name the kind of the first token in a text that has a well-known shape.

    >>> kind_of("curl -H 'Authorization: token ghp_" + "a1B2" * 9 + "'")
    'a GitHub token'
    """
    if not any(mark in text for mark in MARKS):
        return None
    found = TOKEN.search(text)
    return None if found is None or found.lastindex is None else list(SHAPES)[found.lastindex - 1]


def is_secret_file(name: str) -> bool:
    """Whether a file is for secrets, by its name.

    >>> is_secret_file("deploy/.env"), is_secret_file("environment.py")
    (True, False)
    """
    return FILE.search(name) is not None


def redact(text: str) -> str:
    """Cut tokens of well-known shapes and credentials in URLs out of a text."""
    return strip_credentials(TOKEN.sub(REDACTED, text))


def strip_credentials(text: str) -> str:
    """Cut user and password, and arguments that give access, out of every URL in a text.

    The user of ssh stays, which is part of the address, and no secret without a password.

    >>> strip_credentials("--from=https://me:s3cret@git.example/signs.git?v=1&access_token=abc")
    '--from=https://git.example/signs.git?v=1&'
    >>> strip_credentials("ssh://git@git.example/signs.git")
    'ssh://git@git.example/signs.git'
    """
    text = URL_USER.sub(_without_user, text)
    return URL_ARGUMENT.sub("", text) if "://" in text else text


def _without_user(found: re.Match[str]) -> str:
    user = found["user"] if "ssh" in found["scheme"].lower() else ""
    return f"{found['scheme']}{user}{'@' if user else ''}"


def _is_chance(value: str) -> bool:
    if not CHANCE.fullmatch(value):
        return False
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts) >= CHANCE_BITS_MIN
