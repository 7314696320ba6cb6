"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that its client uses for small files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


class Hub:
    """Repositories by name, each the contents of its files by path; and what was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.commits: list[dict[str, Any]] = []
        self.created: list[dict[str, Any]] = []
        self.broken: set[str] = set()
        """Files whose contents fail to come; ``api``: whatever is sent."""

    def commit_of(self, repo: str) -> str:
        """A hash of all that a repository holds."""
        digest = hashlib.sha1()
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + hashlib.sha1(content).digest())
        return digest.hexdigest()

    def add(self, repo: str, folder: Path, inside: str = "") -> None:
        """Put the files of a folder into a repository."""
        held = self.repos.setdefault(repo, {})
        for path in folder.rglob("*"):
            if path.is_file():
                held["/".join(filter(None, (inside, path.relative_to(folder).as_posix())))] = path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, data: Any) -> None:
        self.answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def missing(self, code: str) -> None:
        self.answer(404, headers={"X-Error-Code": code, "X-Error-Message": "not there"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            if repo not in self.hub.repos:
                return self.missing("RepoNotFound")
            if revision not in ("main", self.hub.commit_of(repo)):
                return self.missing("RevisionNotFound")
            files = [{"rfilename": name} for name in sorted(self.hub.repos[repo])]
            return self.answer_json({"id": repo, "sha": self.hub.commit_of(repo), "siblings": files})
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if name not in self.hub.repos.get(repo, {}):
            return self.missing("EntryNotFound" if repo in self.hub.repos else "RepoNotFound")
        if name in self.hub.broken and self.command == "GET":
            return self.answer(500)
        content = self.hub.repos[repo][name]
        headers = {"X-Repo-Commit": self.hub.commit_of(repo), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return self.answer(200, content, headers)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"POST {path}")
        if "api" in self.hub.broken:
            return self.answer(500)
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.hub.created.append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.repos.setdefault(repo, {})
            return self.answer_json({"url": f"https://huggingface.co/{repo}", "id": repo})
        if path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        repo = "/".join(path.split("/")[3:5])
        if "/branch/" in path:
            return self.answer_json({})
        if "/preupload/" in path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer_json({"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        sent = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        self.hub.repos[repo] |= sent
        self.hub.commits.append({"path": path, "files": sorted(sent), **lines[0]["value"]})
        return self.answer_json(
            {"commitUrl": f"https://huggingface.co/{repo}/commit/1", "commitOid": self.hub.commit_of(repo)}
        )


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub, on for the length of the block, that the client of this process uses, with a cache of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
