"""A real HTTP proxy before a real server, which refuses, resets or goes away where it is told to.

It speaks HTTP/1.1 and hands a websocket on as bytes. Its port stays the same while the server behind it is killed and
started again on another.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "proxy-connection"}
Fault = Callable[[str, str, int], str]
"""From method, path and the request's number to `503`, `429`, `reset`, `torn` (the answer is lost), or nothing."""


def none(_method: str, _path: str, _number: int) -> str:
    return ""


class Proxy:
    """Listens on a port of its own for as long as it is up."""

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = none
        self.counts: Counter[str] = Counter()
        """Fault → how often it was met; `` for requests that passed."""
        self.seen = 0
        self.upstream = urlsplit(upstream)
        self._held: set[socket.socket] = set()
        self._port = 0
        self.up(upstream)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    def up(self, upstream: str) -> None:
        """Listen, on the same port as before, for a server that may be another one."""
        self.upstream = urlsplit(upstream)
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and break those there are."""
        self._server.shutdown()
        self._server.server_close()
        for one in list(self._held):
            reset(one)
        self._held.clear()

    def judge(self, method: str, path: str) -> str:
        self.seen += 1
        fault = self.fault(method, path, self.seen)
        self.counts[fault] += 1
        return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is what this is for."""


def reset(one: socket.socket) -> None:
    """End a connection so that its other end reads an error and no end."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RD)
        one.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def setup(self) -> None:
        super().setup()
        self.proxy._held.add(self.request)

    def log_message(self, *_words: object) -> None:
        """Nothing is logged."""

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "websocket" in self.headers.get("Upgrade", "").lower():
            self._tunnel()
            return
        fault = self.proxy.judge(self.command, urlsplit(self.path).path)
        if fault == "reset":
            self.close_connection = True
            reset(self.request)
        elif fault in ("503", "429"):
            self._answer(int(fault), {"Retry-After": "0.2"}, b'{"detail": "told to"}')
        else:
            status, headers, answer = self._ask(body)
            if fault == "torn":
                self.close_connection = True
                reset(self.request)
            else:
                self._answer(status, headers, answer)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_any  # noqa: N815 - the words are HTTP's

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream.netloc, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tunnel(self) -> None:
        self.close_connection = True
        inner = socket.create_connection((self.proxy.upstream.hostname, self.proxy.upstream.port))
        self.proxy._held.add(inner)
        lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items()), "", ""]
        inner.sendall("\r\n".join(lines).encode())
        back = threading.Thread(target=_pump, args=(inner, self.request), daemon=True)
        back.start()
        _pump(self.request, inner)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


__all__ = ["Fault", "Proxy", "none", "reset"]
