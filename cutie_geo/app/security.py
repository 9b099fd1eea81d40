"""Checks of every request (host, origin, token, rate), and the headers of every response."""

import hmac
import ipaddress
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Forbids inline scripts, `eval`, and content from other hosts."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
TOKEN = "token"
"""Query parameter of the token."""
METHODS = ("GET", "HEAD", "POST")
COOKIE_SECONDS = 30 * 24 * 3600
LONGEST_TARGET = 4096
"""Largest number of bytes of a path with its query."""
MOST_CLIENTS = 4096
"""Largest number of addresses whose rates are kept."""
REQUESTS, REQUEST_BURST = 400.0, 1200.0
"""Requests per second of one address, and how many at once. Scrubbing with thumbnails stays below 200 per second."""
WRONG_TOKENS, WRONG_TOKEN_BURST = 0.2, 10.0
"""Wrong tokens per second of one address, and how many at once."""


# ------------------------------------------------------------------------------------------------------------- rates
class Rate:
    """Token bucket: on average `per_second` events, at most `burst` at once."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second, self.burst, self._clock = per_second, burst, clock
        self._left, self._seen = burst, clock()

    def left(self) -> float:
        """Return how many events may happen now."""
        now = self._clock()
        self._left = min(self.burst, self._left + (now - self._seen) * self.per_second)
        self._seen = now
        return self._left

    def take(self) -> bool:
        """Count one event; return False if it is one too many."""
        if self.left() < 1:
            return False
        self._left -= 1
        return True


class Rates:
    """A rate for each address; the addresses not seen for longest are forgotten first."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self._rates: OrderedDict[str, Rate] = OrderedDict()

    def of(self, address: str) -> Rate:
        """Return the rate of an address."""
        rate = self._rates.setdefault(address, Rate(self.per_second, self.burst))
        self._rates.move_to_end(address)
        while len(self._rates) > MOST_CLIENTS:
            self._rates.popitem(last=False)
        return rate


# ------------------------------------------------------------------------------------------------------------- access
@dataclass(frozen=True)
class Access:
    """Who may use the server."""

    hosts: frozenset[str] = LOOPBACK_NAMES
    """Host names in requests, in lower case, without ports."""
    any_address: bool = False
    """Any numeric address is accepted as host, for servers that listen on all interfaces."""
    token: str | None = None
    """Secret that a browser presents once in the URL. None: not needed."""

    def knows_host(self, host: str | None) -> bool:
        """Return True if a Host header names this server."""
        name = host_name(host)
        return name is not None and (name in self.hosts or (self.any_address and _is_address(name)))

    def knows_token(self, text: str | None) -> bool:
        """Return True if `text` is the token. Takes the same time for all texts of one length."""
        return text is not None and self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())


def access_for(host: str, token: str | None) -> Access:
    """Return the access to a server that listens on `host`; a loopback address needs no token."""
    if is_loopback(host):
        return Access(LOOPBACK_NAMES | {host.lower()})
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(LOOPBACK_NAMES | names | {host.lower()}, any_address=host in ("0.0.0.0", "::"), token=token)


def is_loopback(host: str) -> bool:
    """Return True if `host` is reachable from this machine only."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def host_name(host: str | None) -> str | None:
    """Return the name in a Host header in lower case, without port and brackets; None if it is invalid."""
    if not host or any(character in host for character in "/\\@?# \t"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.port is None or parts.port else None
    except ValueError:
        return None


# -------------------------------------------------------------------------------------------------------------- guard
@dataclass
class Guard:
    """Middleware that refuses requests before anything else sees them."""

    app: ASGIApp
    access: Access
    requests: Rates = field(default_factory=lambda: Rates(REQUESTS, REQUEST_BURST))
    wrong_tokens: Rates = field(default_factory=lambda: Rates(WRONG_TOKENS, WRONG_TOKEN_BURST))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is refused, None for one that may pass."""
        headers = Headers(scope=scope)
        address = (scope.get("client") or ("",))[0]
        if not self.requests.of(address).take():
            return _refuse(429, "too many requests; try again in a second", {"Retry-After": "1"})
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.access.knows_host(hosts[0]):
            return _refuse(421, "unknown host; open the address that the program printed")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > LONGEST_TARGET:
            return _refuse(414, f"the address is too long; expected at most {LONGEST_TARGET} characters")
        if scope["type"] == "http" and scope["method"] not in METHODS:
            return _refuse(405, "unknown method", {"Allow": ", ".join(METHODS)})
        if not _same_origin(scope, headers, hosts[0]):
            return _refuse(403, "request of another site")
        return self._token_refusal(scope, headers, address) if self.access.token is not None else None

    def _token_refusal(self, scope: Scope, headers: Headers, address: str) -> Response | None:
        """Check the cookie, or the token in the URL, which is turned into a cookie."""
        cookie = _cookie(headers, self._cookie_name(scope))
        if self.access.knows_token(cookie):
            return None
        wrong = self.wrong_tokens.of(address)
        if wrong.left() < 1:
            return _refuse(429, "too many wrong tokens; wait a minute", {"Retry-After": "60"})
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        given = next((value for name, value in query if name == TOKEN), None)
        if scope["type"] == "http" and scope["method"] == "GET" and self.access.knows_token(given):
            rest = urlencode([(name, value) for name, value in query if name != TOKEN])
            answer = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)  # the token leaves the address bar
            answer.set_cookie(self._cookie_name(scope), given or "", COOKIE_SECONDS, httponly=True, samesite="strict")
            return answer
        if given is not None or cookie is not None:
            wrong.take()
        return _refuse(401, "no valid token; open the complete address that the program printed")

    @staticmethod
    def _cookie_name(scope: Scope) -> str:
        """Return the cookie's name. Cookies are not separated by port, so the name holds it."""
        return f"cutie_geo_{(scope.get('server') or ('', 0))[1]}"


def _same_origin(scope: Scope, headers: Headers, host: str) -> bool:
    """Return False for requests that another site caused.

    Browsers send Origin with everything that changes something, and with WebSockets; Sec-Fetch-Site with all requests.
    """
    origins, site = headers.getlist("origin"), headers.get("sec-fetch-site", "none")
    if origins:
        return origins == [f"http://{host}"]
    if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
        return False
    navigation = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return site in ("same-origin", "none") or (navigation and scope["path"] == "/")


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _refuse(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, {"Cache-Control": "no-store", **(headers or {})})


def _with_headers(send: Send) -> Send:
    """Return `send` with the headers of every answer added."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return add


def valid_size(headers: MutableMapping[str, Any] | Headers, limit: int) -> bool:
    """Return False if a request declares a body of more than `limit` bytes, or an invalid length."""
    declared = headers.get("content-length")
    if declared is None:
        return True
    return declared.isascii() and declared.isdecimal() and len(declared) < 19 and int(declared) <= limit < math.inf
