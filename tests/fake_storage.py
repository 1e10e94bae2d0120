"""A server for one directory that speaks Google Cloud Storage's protocol, and plain HTTP."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class _Handler(http.server.BaseHTTPRequestHandler):
    root: Path
    requests: list[str]

    def do_GET(self):
        url = urlsplit(self.path)
        self.requests.append(unquote(url.path))
        if url.path.endswith("/o"):
            self._list(parse_qs(url.query))
        else:
            self._send_file(self.root / unquote(url.path.split("/o/")[-1]).lstrip("/"))

    def _list(self, query):
        first, last = query.get("startOffset", [""])[0], query.get("endOffset", ["\U0010ffff"])[0]
        files = [str(f.relative_to(self.root)) for f in self.root.rglob("*") if f.is_file()]
        items = [{"name": name, "size": "1"} for name in sorted(files) if first <= name < last]
        self._send(200, json.dumps({"items": items}).encode())

    def _send_file(self, path):
        if not path.is_file():
            self._send(404, b"not found")
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted is None:
            self._send(200, data)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else len(data) - int(last)
        stop = int(last) + 1 if first and last else len(data)
        part = data[start:stop]
        extent = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        self._send(206, part, {"Content-Range": extent})

    def _send(self, status, body, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("x-goog-generation", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """(the server's URL, the paths asked for so far), while inside."""
    requests: list[str] = []
    handler = type("Handler", (_Handler,), {"root": root, "requests": requests})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
