"""The rules that every request to the page must keep, and the headers that every answer has.

The page runs on the user's machine, beside a browser that also opens pages of others. Those may send requests to it,
and may give its address a name of their own (DNS rebinding). Therefore `Host` must be a name of this server, and a
request that comes from another page is refused. A page that other machines can reach asks for a token as well.
"""

import ipaddress
import json
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 21_000_000  # a picture of the size that a served model accepts
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  (compared with, not bound to)
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; font-src 'self'; frame-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at this name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may use the page.

    Attributes:
        host: name or address at which the server listens.
        port: its port.
        token: what a request must know; None: nothing, as the server listens on loopback.
        names: further names of the server that may stand in `Host`.
    """

    host: str
    port: int
    token: str | None = None
    names: tuple[str, ...] = ()

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token. Browsers do not tell the ports of a machine apart."""
        return f"imagecap-{self.port}"

    @property
    def url(self) -> str:
        """The address to open in a browser, with the token."""
        host = socket.gethostname() if self.host in _WILDCARDS else self.host
        host = f"[{host}]" if ":" in host else host
        query = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.port}/{query}"

    def is_own(self, host: str) -> bool:
        """Whether the value of a `Host` header names this server.

        An address may, where the server listens at all of them: no other site can be named by it.
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if parts.path or parts.query or parts.fragment or parts.username is not None:
            return False
        if name in self.names:  # a proxy in front has a port of its own
            return True
        if (port or 80) != self.port:
            return False
        if is_loopback(self.host):
            return name in (*_LOOPBACK, self.host.lower())
        own = (self.host.lower(), socket.gethostname().lower(), *_LOOPBACK)
        return name in own or (self.host in _WILDCARDS and _is_address(name))


def new_access(host: str, port: int, names: Iterable[str] = ()) -> Access:
    """Return the access rules of a server; if other machines can reach it, with a new token."""
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    return Access(host, port, token, tuple(name.lower() for name in names))


class Guard:
    """ASGI middleware that refuses requests from elsewhere, limits their size, and adds headers to answers.

    Args:
        app: the application.
        access: who may use it.
        most_bytes: largest body of a request.
    """

    def __init__(self, app: ASGIApp, access: Access, most_bytes: int = MOST_BODY_BYTES) -> None:
        self._app, self._access, self._most_bytes = app, access, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no WebSockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        send = _with_headers(send, trusted=_is_trusted_by_browsers(scope, headers))
        plain = scope["path"] == "/"  # a person reads it in a browser
        if refusal is not None:
            await _answer(send, *refusal, plain=plain)
            return
        if self._access.token is not None and not self._knows_token(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if scope["path"] == "/" and scope["method"] == "GET" and self._is_token(given):
                cookie = f"{self._access.cookie}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
                await _answer(send, 303, "", {"location": "/", "set-cookie": cookie})
                return
            sentence = "this page needs the token: open the address that the command has printed"
            await _answer(send, 401, sentence, plain=plain)
            return
        await self._app(scope, _Limited(receive, self._most_bytes), send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and sentence for a request that another site or another name has sent; None if it may go on."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_own(hosts[0]):
            return 421, "this server is not known by that name: open the address that the command has printed"
        origin = headers.get("origin")
        if origin is not None and not _same_host(origin, hosts[0]):
            return 403, "a request from another site is refused"
        site = headers.get("sec-fetch-site", "none")
        opens = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if site not in ("same-origin", "none") and not opens:  # a link on another site may open the page
            return 403, "a request from another site is refused"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "the length of the body must be a number"
        if int(length) > self._most_bytes:
            return 413, f"the body is larger than {self._most_bytes} bytes"
        return None

    def _knows_token(self, headers: Headers) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._access.cookie)
        except CookieError:
            cookie = None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return self._is_token(cookie.value if cookie else "") or self._is_token(bearer)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self._access.token or "").encode())


class BodyTooLarge(Exception):
    """A body without a length turned out to be too large."""


class _Limited:
    """Receives a body of at most `most` bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise BodyTooLarge
        return message


def _same_host(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_trusted_by_browsers(scope: Scope, headers: Headers) -> bool:
    """Whether a browser regards the address that it asks as trustworthy: reached by TLS, or on its own machine.

    A proxy with TLS says so in `X-Forwarded-Proto`, which uvicorn has put into the scheme if the proxy runs on this
    machine. Behind any other proxy, browsers tell it themselves: they send `Sec-Fetch-Site` to such addresses only.
    """
    if scope.get("scheme") == "https" or "sec-fetch-site" in headers:
        return True
    try:
        return is_loopback(urlsplit(f"//{headers.get('host', '')}").hostname or "")
    except ValueError:
        return False


def _with_headers(send: Send, *, trusted: bool) -> Send:
    """Add the headers.

    Browsers ignore `Cross-Origin-Opener-Policy` from an address that they do not trust, and report an error; there it
    is left out.
    """

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            # A document of its own, such as a report, may have a policy that gives it an origin of its own.
            own = headers.get("content-security-policy", "").startswith("sandbox")
            for name, value in _HEADERS.items():
                if name == "cross-origin-opener-policy" and not trusted:
                    continue
                if name in ("content-security-policy", "x-frame-options") and own:
                    continue
                if name == "cache-control":
                    headers.setdefault(name, value)
                else:
                    headers[name] = value
        await send(message)

    return sending


async def _answer(
    send: Send, status: int, sentence: str, headers: dict[str, str] | None = None, *, plain: bool = False
) -> None:
    body = (sentence if plain or not sentence else json.dumps({"error": sentence})).encode()
    kind = "text/plain; charset=utf-8" if plain else "application/json"
    fields = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
