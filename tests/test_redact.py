"""Passwords and tokens in messages."""

import copy

import pytest

from imagecap.errors import ImageCapError, one_line
from imagecap.redact import redact, redact_uris


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://alice:S3cretPw@127.0.0.1:9/x is away", "http://127.0.0.1:9/x is away"),
        ("'postgresql+psycopg://u:p%40ss@db:5432/runs'", "'postgresql+psycopg://db:5432/runs'"),
        ("https://u:p@ss@host/a and ssh://git:pw@host/b", "https://host/a and ssh://host/b"),
        ("https://ghp_token@github.com/a/b.git", "https://github.com/a/b.git"),
        ("mysql://db/runs?user=me&password=hush!&ssl=1", "mysql://db/runs?user=me&password=***&ssl=1"),
        ("GET /data?sv=1&sig=abc%2F9&x-token=t0 failed", "GET /data?sv=1&sig=***&x-token=*** failed"),
        ("http://127.0.0.1:5000/#/models/imagecap@champion", "http://127.0.0.1:5000/#/models/imagecap@champion"),
        (
            "models:/imagecap@champion, file:///a@b/c, a@b.example",
            "models:/imagecap@champion, file:///a@b/c, a@b.example",
        ),
    ],
)
def test_uris_lose_user_and_password(text: str, expected: str) -> None:
    assert redact(text) == redact_uris(text) == expected


def test_secrets_of_the_environment_are_hidden_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:pa%2Fss-word@host")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    said = "login of alice with pa/ss-word (pa%2Fss-word) and hf_0123456789: false"
    assert redact(said) == "login of alice with *** (***) and ***: false"
    assert redact_uris(said) == said


def test_no_error_holds_a_password() -> None:
    error = ImageCapError("http://u:hidden@host does not answer")
    assert str(error) == str(copy.copy(error)) == "http://host does not answer"
    # the cut comes after the password was removed, as half a URI cannot be recognised
    long = RuntimeError(f"{'x' * 170} http://somebody:verysecretpassword@host")
    assert "verysecret" not in one_line(long)
