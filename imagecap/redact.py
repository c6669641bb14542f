"""Removing passwords and tokens from text before it is printed, logged or stored.

URIs of tracking servers, databases, git and DVC remotes and proxies may hold a user and a password. Libraries quote
such URIs in their messages, so that whole texts are searched, not only URIs that we print ourselves.
"""

import os
import re
from urllib.parse import unquote

# `scheme://user:password@`: what stands before the last @ of the host, as an unescaped @ may be part of the password.
_USER_INFO = re.compile(r"(?<=://)[^\s/'\"<>]+@(?=[^\s/@'\"<>])")
_QUERY_SECRET = re.compile(
    r"(?i)([?&;][\w.-]*(?:password|passwd|pwd|token|secret|signature|credential|api[_-]?key|access[_-]?key|\bsig)[\w-]*=)"
    r"[^&;\s'\"<>]+"
)
_SECRET_NAME = re.compile(r"(?i)(?:password|passwd|token|secret|secret_key|access_key|api_key|auth_string)$")
_URI_NAME = re.compile(r"(?i)ur[il]$|_proxy$|_endpoint$")
_SHORTEST = 6  # shorter values occur in ordinary words


def redact(text: str) -> str:
    """Return a message without the user and password of URIs, and with `***` in place of known secrets.

    Known are secrets in queries of URIs (`?password=…`, `&token=…`), and the values of environment variables such as
    `MLFLOW_TRACKING_PASSWORD` or `HF_TOKEN`.
    """
    text = redact_uris(text)
    for secret in _known_secrets():
        text = text.replace(secret, "***")
    return text


def redact_uris(text: str) -> str:
    """Return a text without the user and password of the URIs in it; for files, in which nothing else may change."""
    return _QUERY_SECRET.sub(r"\1***", _USER_INFO.sub("", text))


def _known_secrets() -> list[str]:
    """Return the secrets in the environment, longest first."""
    found = set()
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            found.add(value)
        elif _URI_NAME.search(name) and "://" in value:
            user_info = value.partition("://")[2].rpartition("@")[0]
            password = user_info.partition(":")[2] or user_info  # without a colon it is a token
            found |= {password, unquote(password)}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)
