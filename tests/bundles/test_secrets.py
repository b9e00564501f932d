import pytest

from bundles.errors import RecordingError
from bundles.secrets import kind_of, redact, refuse, strip_credentials

LETTERS = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"
"""36 letters and digits that are no secret of anybody."""
TOKENS = {
    "an AWS access key": "AKIA" + "Q3R5" * 4,
    "a GitHub token": "ghp_" + LETTERS,
    "a GitLab token": "glpat-" + LETTERS[:20],
    "a Slack token": "xoxb-" + "123456789012-" + LETTERS[:12],
    "a Google API key": "AIza" + LETTERS[:35],
    "a Hugging Face token": "hf_" + LETTERS[:34],
    "a PyPI token": "pypi-" + LETTERS * 2,
    "an API key that begins with sk-": "sk-proj-" + LETTERS,
    "a JSON web token": f"eyJ{LETTERS[:17]}.eyJ{LETTERS}.{LETTERS}",
    "a bearer token": "Bearer " + LETTERS,
    "a private key": "-----BEGIN EC " + "PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_is_known_by_its_shape(kind: str) -> None:
    """Whatever its name, and wherever in a value it stands; the error has the name and the kind, never the value."""
    value = f"x {TOKENS[kind]} y"
    assert kind_of(value) == kind
    with pytest.raises(RecordingError, match=r"^note: looks like a secret") as caught:
        refuse({"note": value})
    assert kind in str(caught.value)
    assert TOKENS[kind] not in str(caught.value)
    assert redact(f"epoch 1 {value}") == "epoch 1 x [redacted] y"


@pytest.mark.parametrize("name", ["wandb-key", "auth", "hf.token.value", "DB_PASS"])
def test_chance_under_a_name_that_speaks_of_keys(name: str) -> None:
    """A name that only speaks of keys, and a value that looks like chance, are a secret together."""
    for value in (LETTERS[:24], "9f86d081884c7d659a2feaa0c55ad015"):
        with pytest.raises(RecordingError, match="looks like a secret"):
            refuse({name: value})
    refuse({name: "left-to-right"})


def test_what_is_no_secret_passes() -> None:
    """The words of the trade, digests, and long names of models."""
    refuse(
        {
            "max-tokens": "2048",
            "tokenizer": "bert-base-uncased-tokenizer-v2",
            "pad-token": "<pad>",
            "key": "facebook/opt-350m-v2.safetensors",
            "sort-key": "2026-01-01T00:00:00",
            "data-sha256": "9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015",
            "task-list": "sk-learn and sk-image-processing-example",
            "run": LETTERS,
        }
    )


@pytest.mark.parametrize(
    ("url", "stripped"),
    [
        ("https://me:s3cret@git.example:8443/a.git", "https://git.example:8443/a.git"),
        ("https://token@git.example/a.git", "https://git.example/a.git"),
        ("postgresql+asyncpg://me:s3cret@db/a", "postgresql+asyncpg://db/a"),
        ("ssh://git:s3cret@git.example/a.git", "ssh://git@git.example/a.git"),
        ("git@git.example:a.git", "git@git.example:a.git"),
        ("s3://bucket/a.csv?X-Amz-Signature=abc&X-Amz-Expires=9", "s3://bucket/a.csv?&X-Amz-Expires=9"),
        ("https://a.example/?sig=abc", "https://a.example/?"),
        ("design=square sig=5", "design=square sig=5"),
    ],
)
def test_urls_lose_their_credentials(url: str, stripped: str) -> None:
    """User, password and signature go, the address stays; what is no URL is left as it is."""
    assert strip_credentials(f"--from={url}") == f"--from={stripped}"
