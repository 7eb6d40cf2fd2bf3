"""An OpenAI-compatible endpoint on this machine, which fails when it is told to."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

USED = {"prompt_tokens": 100, "completion_tokens": 10}


class Server:
    """Answers, and what it was asked.

    `faults` are used up first, one for each request: a state, or "drop", "cut", "words", "empty", "null", "moved".
    """

    def __init__(self) -> None:
        self.faults: list[int | str] = []
        self.answer: Callable[[str], str] = lambda text: f"{text} It is put right."
        self.finish = "stop"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paid: Counter[str] = Counter()
        """Texts -> how often they were answered in full."""
        self.down = False
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.requests.append({"path": request.path, **body})
            self.headers.append(dict(request.headers))
            fault = 500 if self.down else self.faults.pop(0) if self.faults else None
        text = body["messages"][-1]["content"]
        choice = {"message": {"content": self.answer(text)}, "finish_reason": self.finish}
        if fault == "drop":
            request.connection.close()
            return
        if isinstance(fault, int):
            self._send(request, fault, json.dumps({"error": {"message": f"no, {fault}"}}).encode())
            return
        if fault == "moved":
            self._send(request, 302, b"")
            return
        content = {
            "cut": json.dumps({"choices": [choice]}).encode()[:-9],
            "words": b"<html>busy</html>",
            "empty": b'{"choices": []}',
            "null": b'{"choices": [{"message": {"content": null}}]}',
        }.get(str(fault))
        if content is None:
            content = json.dumps({"choices": [choice], "usage": USED}).encode()
            with self._lock:
                self.paid[text] += 1
        self._send(request, 200, content)

    def _send(self, request: BaseHTTPRequestHandler, state: int, content: bytes) -> None:
        request.send_response(state)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Location", self.url + "/elsewhere")
        if state == 429:
            request.send_header("Retry-After", "2")
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that runs until the test ends."""
    monkeypatch.setenv("NO_PROXY", "*")
    running = Server()
    yield running
    running.stop()
