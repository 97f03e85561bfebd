"""Small OpenAI-compatible server on loopback with configurable answers and faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PART_ANSWERS = {
    "sex": "man", "age": "young", "hair": "short black hair", "headwear": "none",
    "eyewear": "None.", "upper": "striped shirt", "upper_colour": "white", "lower": "jeans",
    "lower_colour": "blue", "shoes": "white sneakers", "bag": "a black backpack",
}  # fmt: skip
DUAL_ANSWERS = {
    "identity": "A young man of slim build with short black hair.",
    "clothing": "He wears a white striped cotton shirt, blue jeans and white sneakers.",
}


class Endpoint:
    """Requests that the server received, and its answers.

    Attributes:
        answers: content of a valid answer.
        asked: number of requests by image hash.
        answered: valid answers by image hash.
        fault: called before a good answer, with the number of this image's attempt (from 1).
        delay_s: before every answer.
        times: times of the requests, by image hash.
        headers: of the last request.
        body: of the last request.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = PART_ANSWERS
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.prompts: list[str] = []
        self.times: dict[str, list[float]] = {}
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {}
        self.delay_s = 0.0
        self.lock = threading.Lock()
        self.fault: Callable[[Handler, str, int], bool] = lambda handler, image, attempt: False
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.respond(200, json.dumps({"data": []}))

    def do_POST(self) -> None:
        endpoint = self.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, picture = body["messages"][0]["content"]
        kind, _, data = picture["image_url"]["url"].partition(";base64,")
        assert kind in ("data:image/jpeg", "data:image/png"), kind
        image = hashlib.sha256(base64.b64decode(data)).hexdigest()
        with endpoint.lock:
            endpoint.asked[image] += 1
            attempt = endpoint.asked[image]
            endpoint.prompts.append(text["text"])
            endpoint.times.setdefault(image, []).append(time.monotonic())
            endpoint.headers = dict(self.headers)
            endpoint.body = body
        time.sleep(endpoint.delay_s)
        if not endpoint.fault(self, image, attempt):
            self.answer(json.dumps(endpoint.answers))
            with endpoint.lock:
                endpoint.answered[image] += 1

    def answer(self, content: str | None) -> None:
        self.respond(200, json.dumps({"choices": [{"message": {"content": content}}]}))

    def respond(self, status: int, text: str, **headers: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the client was killed, or waited no longer


@contextmanager
def serving() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    handler = type("Bound", (Handler,), {"endpoint": endpoint})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
