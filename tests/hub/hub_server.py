"""A local stand-in for the Hugging Face Hub: the few endpoints that huggingface_hub's downloads use."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, and how badly.

    Attributes:
        repositories: Files by repository and name.
        gated: Repositories whose files answer 403, as those with terms that weren't accepted.
        private: Repositories that answer 401 to everything.
        break_off: Files that are cut off halfway, and answer 503 from then on.
        requests: Method and path of each request.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    break_off: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""

    def downloaded(self) -> list[str]:
        """Names of the files of which bytes were asked for, in order of name."""
        return sorted(
            {line.rpartition("/")[2] for line in self.requests if line.startswith("GET") and "/resolve/" in line}
        )


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs the server while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, hub)

        def do_HEAD(self) -> None:
            answer(self, hub)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, hub: Hub) -> None:
    path = unquote(urlsplit(request.path).path).strip("/")
    hub.requests.append(f"{request.command} /{path}")
    if path.startswith("api/models/"):
        repository, _, rest = path.removeprefix("api/models/").partition("/tree/")
        repository, _, revision = repository.partition("/revision/")
        kind, revision = ("tree", rest) if rest else ("info", revision or "main")
    else:
        repository, _, rest = path.partition("/resolve/")
        revision, _, kind = rest.partition("/")
    if repository not in hub.repositories or repository in hub.private:
        error(request, 401, "RepoNotFound")
    elif revision not in ("main", COMMIT):
        error(request, 404, "RevisionNotFound")
    else:
        send(request, hub, repository, kind)


def send(request: BaseHTTPRequestHandler, hub: Hub, repository: str, kind: str) -> None:
    files = hub.repositories[repository]
    if kind == "info":
        siblings = [{"rfilename": name} for name in files]
        document(request, {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})
    elif kind == "tree":
        entries = [{"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in files.items()]
        document(request, entries)
    elif repository in hub.gated:
        error(request, 403, "GatedRepo")
    elif kind not in files:
        error(request, 404, "EntryNotFound")
    elif kind in hub.break_off and f"GET cut {kind}" in hub.requests:
        error(request, 503, "")
    else:
        send_file(request, hub, kind, files[kind])


def send_file(request: BaseHTTPRequestHandler, hub: Hub, name: str, data: bytes) -> None:
    wanted = request.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
    request.send_response(206 if wanted else 200)
    request.send_header("ETag", f'"{etag(data)}"')
    request.send_header("X-Repo-Commit", COMMIT)
    request.send_header("Content-Length", str(len(data) - start))
    if wanted:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    request.end_headers()
    if request.command == "GET" and name in hub.break_off:
        hub.requests.append(f"GET cut {name}")
        request.close_connection = True
        data = data[: len(data) // 2]
    if request.command == "GET":
        request.wfile.write(data[start:])


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def document(request: BaseHTTPRequestHandler, value: object) -> None:
    body = json.dumps(value).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def error(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    request.send_response(status)
    request.send_header("X-Error-Code", code)
    request.send_header("Content-Length", "0")
    request.end_headers()
