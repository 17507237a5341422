"""A local web server that stalls, cuts off, redirects and refuses, and notes what was asked."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


def picture(kind: str = "JPEG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


BIG = bytes(range(256)) * 2000  # half a MB


class RudeServer(ThreadingHTTPServer):
    """`asked` counts requests by path, `ranges` keeps the ranges; `hold` stops `/slow` half-way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.agents: set[str] = set()
        self.times: dict[str, list[float]] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.hold = threading.Event()
        self.tag = '"v1"'
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def end(self) -> None:
        self.hold.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what this is about."""


class Handler(BaseHTTPRequestHandler):
    server: RudeServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.strip("/")
        server = self.server
        with server.lock:
            server.asked[name] += 1
            count = server.asked[name]
            server.agents.add(self.headers["User-Agent"])
            server.times.setdefault(name, []).append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            kind = name.split("-")[0]
            getattr(self, f"_{kind}", self._gone)(name, count)
        finally:
            with server.lock:
                server.at_once -= 1

    def _send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str):  # type: ignore[no-untyped-def]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _gone(self, name: str, count: int) -> None:
        self._send(b"no", 404)

    def _picture(self, name: str, count: int) -> None:
        self._send(picture(seed=int(name.split("-")[1])))

    def _png(self, name: str, count: int) -> None:
        self._send(picture("PNG"))

    def _html(self, name: str, count: int) -> None:
        self._send(b"<html>robot?</html>", Content_Type="image/jpeg")

    def _busy(self, name: str, count: int) -> None:
        """429 once, then a picture."""
        if count == 1:
            self._send(b"", 429, Retry_After="1")
        else:
            self._picture("picture-7", 1)

    def _later(self, name: str, count: int) -> None:
        self._send(b"", 503, Retry_After="7200")

    def _broken(self, name: str, count: int) -> None:
        """500 twice, then a picture."""
        if count < 3:
            self._send(b"oh", 500)
        else:
            self._picture("picture-8", 1)

    def _dead(self, name: str, count: int) -> None:
        self._send(b"oh", 500)

    def _stalled(self, name: str, count: int) -> None:
        """Half a picture and silence; the second time all of it."""
        body = picture(seed=9)
        if count == 1:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(1.0)
            self.close_connection = True
        else:
            self._send(body)

    def _cut(self, name: str, count: int) -> None:
        """Less than promised, whatever the range; whole the third time."""
        self._ranged(BIG, cut=100_000 if count < 3 else None)

    def _endless(self, name: str, count: int) -> None:
        """No length, and closed half-way through a picture the first time."""
        body = picture(seed=4)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if count == 1 else body)

    def _slow(self, name: str, count: int) -> None:
        """Half of it, then nothing until `hold`."""
        if count == 1:
            self.send_response(200)
            self.send_header("Content-Length", str(len(BIG)))
            self.send_header("ETag", self.server.tag)
            self.end_headers()
            self.wfile.write(BIG[:200_000])
            self.wfile.flush()
            self.server.hold.wait(60)
            self.close_connection = True
        else:
            self._ranged(BIG)

    def _file(self, name: str, count: int) -> None:
        self._ranged(BIG)

    def _ranged(self, body: bytes, cut: int | None = None) -> None:
        start, status, extra = 0, 200, {"ETag": self.server.tag}
        asked = self.headers.get("Range")
        if asked:
            self.server.ranges.append(asked)
        if asked and self.headers.get("If-Range") == self.server.tag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        self.send_response(status)
        for key, value in extra.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part if cut is None else part[:cut])
        self.close_connection = True

    def _moved(self, name: str, count: int) -> None:
        self._send(b"", 302, Location="/picture-5")

    def _circle(self, name: str, count: int) -> None:
        self._send(b"", 302, Location=f"/{name}")

    def _astray(self, name: str, count: int) -> None:
        self._send(b"", 302, Location="http://[no address")

    def _gzip(self, name: str, count: int) -> None:
        self._send(b"\x1f\x8bnot really", Content_Encoding="gzip")
