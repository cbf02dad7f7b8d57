"""Check every request's key, host and body, add headers, count, and limit slow clients."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import time
from typing import Any, Protocol, runtime_checkable

from uvicorn.protocols.http.h11_impl import H11Protocol

from personavec.serve.metrics import Metrics
from personavec.serve.protocol import ApiError

log = logging.getLogger("personavec.serve")
#: Seconds for a client to send its headers, to send its body, and to read pending data.
HEADER_SECONDS, BODY_SECONDS, READ_SECONDS = 10.0, 30.0, 60.0
#: Most connections of one peer, and of all peers; far more than the queue holds.
PEER_CONNECTIONS, CONNECTIONS = 256, 1024
#: Paths that need the key, if there is one. The page itself holds no secrets.
_GUARDED = ("/v1/", "/metrics")
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": CONTENT_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Gate:
    """ASGI middleware that reads and checks a whole body before its route is called.

    Without a key, only loopback names are accepted as Host, so that web pages cannot reach the
    server by DNS rebinding. A body must have JSON's content type, which a page cannot send to
    another origin without a preflight request. Routes receive HEAD as GET, and paths without a
    trailing slash.
    """

    def __init__(
        self,
        app: Any,
        *,
        metrics: Metrics,
        api_key: str | None,
        max_body: int,
    ):
        self._app, self._metrics = app, metrics
        self._key = api_key.encode() if api_key else None
        self._max_body = max_body

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                more = [(k, v) for k, v in _HEADERS.items() if k not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._admit(scope, headers)
            body = await self._body(scope, headers, receive)
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
            if scope["method"] == "HEAD":
                scope["method"] = "GET"  # uvicorn leaves the body out
            await self._app(scope, _replayed(body, receive), answer)
        except ApiError as error:
            await answer_error(error, answer)
        except _Gone:
            pass
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status or 499)).inc()
            log.info(
                "%s %s %s %.0f ms",
                *(scope["method"], route, status or "gone", 1000 * (time.monotonic() - began)),
            )

    def _admit(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        if self._key is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rsplit(":", 1)[0]
            if name not in _LOCAL_HOSTS:
                raise ApiError(
                    403, "without an API key this server accepts only loopback host names"
                )
        elif scope["path"].startswith(_GUARDED):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self._key):
                raise ApiError(
                    401,
                    "missing or invalid API key: send it as 'Authorization: Bearer KEY'",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )

    async def _body(self, scope: Any, headers: dict[bytes, bytes], receive: Any) -> bytes:
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE"):
            return b""
        too_large = ApiError(
            413, f"the body exceeds {self._max_body} bytes", code="request_too_large"
        )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._max_body:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ApiError(408, "the body took too long") from None
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if size and kind != b"application/json":
            raise ApiError(415, "send the body as Content-Type: application/json")
        return b"".join(parts)


class _Gone(Exception):
    """The client has left."""


def _replayed(body: bytes, receive: Any) -> Any:
    """A `receive` that first returns the body, which has already been read."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer_error(error: ApiError, send: Any) -> None:
    """Send an error as the whole response."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    # The rest of a refused body is not read, so the connection cannot be used again.
    headers |= {"connection": "close"} | {k.lower(): v for k, v in error.headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


@runtime_checkable
class _Timer(Protocol):
    """The handle that `call_later` returns, asyncio's or uvloop's."""

    def cancel(self) -> None: ...


class PromptProtocol(H11Protocol):
    """HTTP/1.1 that closes connections of slow clients and of peers with too many connections.

    uvicorn itself only closes connections that are idle between requests. A connection that sends
    its headers byte by byte, or never reads its reply, would stay open forever. uvicorn also has no
    limit per peer. Here, the peer with the most connections loses the one that has been idle
    longest. A connection that waits for its reply is never closed.
    """

    _header_timer: _Timer | None = None
    _read_timer: _Timer | None = None
    _since = 0.0
    _peer = ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since, self._peer = self.loop.time(), _peer_of(self.client)
        self._make_room()
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._header_timer = _cancelled(self._header_timer)
        else:
            self._expect_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()
        self._header_timer = _cancelled(self._header_timer)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(READ_SECONDS, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_timer = _cancelled(self._read_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_timer = _cancelled(self._header_timer)
        self._read_timer = _cancelled(self._read_timer)
        super().connection_lost(exc)

    @property
    def _activity(self) -> int:
        """0 without a request, 1 while a request is received, 2 until its reply is sent."""
        if self.cycle is None or self.cycle.response_complete:
            return 0
        return 1 if self.cycle.more_body else 2

    def _make_room(self) -> None:
        held: dict[str, list[PromptProtocol]] = {}
        for other in self.connections:
            if isinstance(other, PromptProtocol) and not other.transport.is_closing():
                held.setdefault(other._peer, []).append(other)
        most = max(held.values(), key=len)
        if len(held[self._peer]) > PEER_CONNECTIONS:
            most = held[self._peer]
        elif sum(map(len, held.values())) < CONNECTIONS:
            return
        idle = [other for other in most if other._activity < 2 and other is not self]
        victim = min(idle, key=lambda other: (other._activity, other._since), default=self)
        log.info("too many connections of %s: one was closed", victim._peer or "a local peer")
        victim._abort()

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self._abort)

    def _abort(self) -> None:
        """Close at once, without waiting for unread data."""
        self.transport.abort()


def _peer_of(client: tuple[str, int] | None) -> str:
    """A peer's address; for IPv6 the /64 network, within which a peer can choose addresses."""
    if client is None:
        return ""
    address = ipaddress.ip_address(client[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))


def _cancelled(timer: _Timer | None) -> None:
    """Cancel a timer, if there is one; returns None to store in its place."""
    if timer is not None:
        timer.cancel()
