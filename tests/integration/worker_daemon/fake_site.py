"""A site that keeps the worker's contract in memory, and can be told to misbehave."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import ssl
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "worker-token-for-tests"
API = "/api/mri/segmentation/"


@dataclass
class FakeRequest:
    id: str
    images: list[bytes]
    status: str = "pending"
    attempt: int = 0
    lease: str = ""
    leases: set[str] = field(default_factory=set)
    failure: dict | None = None
    result: dict | None = None
    artifacts: dict[str, bytes] = field(default_factory=dict)
    beats: list[dict] = field(default_factory=list)
    completions: int = 0
    failures: list[str] = field(default_factory=list)


# A fault looks at (method, path) and gives None, or one of:
#   ("status", 503, headers)  ("html",)  ("cut", bytes)  ("swallow",)  ("redirect", url)
#   ("page", status)  ("trickle"[, length])  ("hold", threading.Event)
Fault = Callable[[str, str], tuple | None]


class FakeSite:
    def __init__(self) -> None:
        self.requests: dict[str, FakeRequest] = {}
        self.granted: dict[str, str] = {}
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Fault] = []
        self.expires_in = 90.0
        self.deadline_in = 1800.0
        self.requeues_retryable = False
        self.instances_at_once: int | None = None  # a site that keeps the contract, and no more
        self.clock_off_s = 0.0
        self.health: dict[str, object] = {"version": "0.1.0", "ok": True, "lane": "lab"}
        self.lock = threading.RLock()
        self.filed = threading.Condition(self.lock)
        self.url = ""

    def file(self, request_id: str, *images: bytes) -> FakeRequest:
        request = FakeRequest(id=request_id, images=list(images))
        with self.filed:
            self.requests[request_id] = request
            self.filed.notify_all()
        return request

    def fault_once(self, method: str, pattern: str, *action: object) -> None:
        """Misbehave the next time that a call matches."""

        def fault(called_method: str, path: str) -> tuple | None:
            if called_method != method or not re.search(pattern, path):
                return None
            self.faults.remove(fault)
            return action

        self.faults.append(fault)

    def fault_always(self, method: str, pattern: str, *action: object) -> Fault:
        def fault(called_method: str, path: str) -> tuple | None:
            return action if called_method == method and re.search(pattern, path) else None

        self.faults.append(fault)
        return fault

    def paths(self, method: str) -> list[str]:
        return [path for called, path, _ in self.calls if called == method]


def _manifest(request: FakeRequest) -> list[dict]:
    instances = [
        {"id": f"i{n}", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for n, data in enumerate(request.images)
    ]
    return [{"series_id": "series-1", "instances": instances}]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: FakeSite

    def log_message(self, *args: object) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = time.time() if timestamp is None else timestamp
        return super().date_time_string(now + self.site.clock_off_s)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        site = self.site
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.removeprefix(API)
        with site.lock:
            site.calls.append((self.command, path, dict(self.headers)))
            action = next((a for a in (f(self.command, path) for f in site.faults) if a), None)
        if action is not None and action[0] == "hold":
            action[1].wait(60)
        elif action is not None and action[0] not in ("cut", "swallow"):
            self._misbehave(action)
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"success": False, "code": "unauthenticated", "error": "No."})
            return
        self._cut_at = action[1] if action is not None and action[0] == "cut" else None
        self._is_swallowed = action is not None and action[0] == "swallow"
        self._route(path, body)

    def _misbehave(self, action: tuple) -> None:
        if action[0] == "status":
            headers = action[2] if len(action) > 2 else {}
            body = action[3] if len(action) > 3 else {"success": False, "code": "x", "error": "E."}
            self._json(action[1], body, headers)
        elif action[0] == "html":
            self._bytes(200, b"<html>proxy</html>", {"Content-Type": "text/html"})
        elif action[0] == "page":
            self._bytes(action[1], b"<html>proxy</html>", {"Content-Type": "text/html"})
        elif action[0] == "trickle":
            self._trickle(*action[1:])
        elif action[0] == "redirect":
            self._bytes(301, b"", {"Location": action[1]})
        elif action[0] == "close":
            self.close_connection = True
            self.connection.close()

    def _trickle(self, length: int | None = None) -> None:
        """Send one byte now and then, so that no read timeout ever fires."""
        self.close_connection = True
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            for _ in range(length or 600):
                self.wfile.write(b" ")
                time.sleep(0.1)
        except OSError:
            pass

    def _route(self, path: str, body: bytes) -> None:
        if path.startswith("pending-requests/?"):
            self._json(200, {"success": True, "count": 0, "requests": []})
        elif path == "health/":
            self._json(200, {"success": True, **self.site.health})
        elif path == "pending-requests/claim/":
            self._claim()
        elif match := re.fullmatch(r"requests/([^/]+)/instances/", path):
            self._instances(self.site.requests[match[1]], json.loads(body)["instance_ids"])
        elif match := re.fullmatch(r"requests/([^/]+)/instances/i(\d+)", path):
            self._instance(self.site.requests[match[1]], int(match[2]))
        elif match := re.fullmatch(r"requests/([^/]+)/heartbeat/", path):
            self._heartbeat(match[1], json.loads(body))
        elif match := re.fullmatch(r"requests/([^/]+)/artifacts/([^/]+)", path):
            self._artifact(match[1], match[2], body)
        elif match := re.fullmatch(r"complete-request/([^/]+)/", path):
            self._complete(match[1], json.loads(body))
        elif match := re.fullmatch(r"requests/([^/]+)/release/", path):
            self._release(match[1])
        else:
            self._json(404, {"success": False, "code": "not_found", "error": "No such path."})

    def _claim(self) -> None:
        site, key = self.site, self.headers["Idempotency-Key"]
        wait = float(self.headers["Prefer"].removeprefix("wait="))
        with site.filed:
            request = site.requests.get(site.granted.get(key, ""))
            if request is None:
                site.filed.wait_for(self._pending, timeout=wait)
                request = self._pending()
            if request is None:
                self._bytes(204, b"", {"Retry-After": "0"})
                return
            if site.granted.get(key) is None:
                request.attempt += 1
                request.status = "processing"
                request.lease = key
                request.leases.add(key)
                site.granted[key] = request.id
        self._json(
            200,
            {
                "success": True,
                "request_id": request.id,
                "series_ids": ["series-1"],
                "main_series_id": "series-1",
                "model": None,
                "attempt": request.attempt,
                "lease": {
                    "id": key,
                    "expires_in": site.expires_in,
                    "deadline_in": site.deadline_in,
                },
                "manifest": _manifest(request),
                **({"instances_at_once": site.instances_at_once} if site.instances_at_once else {}),
            },
        )

    def _pending(self) -> FakeRequest | None:
        waiting = (r for r in self.site.requests.values() if r.status == "pending")
        return next(waiting, None)

    def _lease(self) -> str:
        return self.headers.get("If-Match", "").strip('"')

    def _instance(self, request: FakeRequest, number: int) -> None:
        data = request.images[number]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        status, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range") == etag:
            status, start = 206, int(asked[1])
        headers = {"ETag": etag, "Content-Type": "application/dicom"}
        self._bytes(status, data[start:], headers)

    def _instances(self, request: FakeRequest, ids: list[str]) -> None:
        if self.site.instances_at_once is None:
            self._json(404, {"success": False, "code": "not_found", "error": "No such path."})
            return
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in ids[: self.site.instances_at_once]:
                data = request.images[int(name[1:])]
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        self._bytes(200, archive.getvalue(), {"Content-Type": "application/x-tar"})

    def _heartbeat(self, request_id: str, body: dict) -> None:
        request = self.site.requests[request_id]
        request.beats.append(body)
        if request.status != "processing":
            self._json(410, {"success": False, "code": "cancelled", "error": "Cancelled."})
        elif self._lease() != request.lease:
            self._json(412, {"success": False, "code": "lease_not_current", "error": "Lost."})
        else:
            self._json(200, {"success": True, "expires_in": self.site.expires_in})

    def _artifact(self, request_id: str, name: str, body: bytes) -> None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if self.headers["Content-Digest"] != f"sha-256=:{digest}:":
            self._json(422, {"success": False, "code": "digest_mismatch", "error": "Digest."})
            return
        self.site.requests[request_id].artifacts[name] = body
        self._json(201, {"success": True})

    def _complete(self, request_id: str, body: dict) -> None:
        request = self.site.requests[request_id]
        if self._lease() not in request.leases:
            self._json(412, {"success": False, "code": "lease_not_current", "error": "Lost."})
        elif request.status == "cancelled":
            self._json(410, {"success": False, "code": "cancelled", "error": "Cancelled."})
        elif not body["success"]:
            if self._lease() != request.lease:
                self._json(412, {"success": False, "code": "x", "error": "Lost."})
                return
            request.failure = body["failure"]
            request.failures.append(body["failure"]["code"])
            is_again = self.site.requeues_retryable and body["failure"]["retryable"]
            request.status = "pending" if is_again and request.attempt < 3 else "failed"
            self._json(200, {"success": True, "outcome": "failed"})
        else:
            request.completions += 1
            is_new = request.result is None
            request.result = request.result or body["result"]
            request.status = "completed"
            outcome = "accepted" if is_new else "replay"
            self._json(200, {"success": True, "outcome": outcome})

    def _release(self, request_id: str) -> None:
        request = self.site.requests.get(request_id)
        if request is None:
            self._json(404, {"success": False, "code": "request_not_found", "error": "None."})
            return
        request.attempt -= 1
        request.status = "released"
        self._json(200, {"success": True})

    def _json(self, status: int, body: dict, headers: dict | None = None) -> None:
        data = json.dumps(body).encode()
        self._bytes(status, data, {"Content-Type": "application/json", **(headers or {})})

    def _bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        cut_at = getattr(self, "_cut_at", None)
        try:
            if getattr(self, "_is_swallowed", False):
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if cut_at is None else data[:cut_at])
            if cut_at is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
        except OSError:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: object) -> None:
        pass  # connections that a fault cut


@contextmanager
def running(site: FakeSite, port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[FakeSite]:
    handler = type("Handler", (_Handler,), {"site": site})
    server = _Server(("127.0.0.1", port), handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        site.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
