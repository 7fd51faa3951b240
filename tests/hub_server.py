"""A small server that speaks the parts of the Hub's HTTP interface that pushing and loading an adapter need.

Run as a thread: `with HubServer() as hub: ... hub.url, hub.repos`. It keeps everything in memory and stores safetensors
through the LFS protocol, as the Hub does.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """Loopback server; `repos` maps `user/name` to its files, `commits` to its commit ids, newest last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.visibility: dict[str, str | None] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.is_full = False  # takes no commits

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()


def _is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".pt"))


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay silent: the test log is no place for requests."""

    def _reply(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self._reply({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        return path

    def do_PUT(self) -> None:
        data = self._body()
        oid = self._path().removeprefix("/lfs/")
        if hashlib.sha256(data).hexdigest() != oid:
            return self._reply({"error": "content does not hash to its id"}, 400)
        self.server.objects[oid] = data
        self._reply({})

    def do_POST(self) -> None:
        path, data = self._path(), self._body()
        if not self.headers.get("Authorization"):
            return self._reply({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if path == "/api/validate-yaml":
            return self._reply({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(json.loads(data))
        if match := re.fullmatch(r"/api/models/(.+/.+)/(preupload|commit)/main", path):
            repo, action = match.groups()
            if repo not in self.server.repos:
                return self._missing("RepoNotFound")
            if action == "preupload":
                return self._preupload(repo, json.loads(data))
            return self._reply({"error": "out of space"}, 403) if self.server.is_full else self._commit(repo, data)
        self._missing("EntryNotFound")

    def _create(self, request: dict[str, Any]) -> None:
        repo = f"{request.get('organization') or 'me'}/{request['name']}"
        known = repo in self.server.repos
        if not known:
            self.server.repos[repo], self.server.commits[repo] = {}, [hashlib.sha1(repo.encode()).hexdigest()]
            self.server.visibility[repo] = request.get("visibility")
        self._reply({"url": f"{self.server.url}/{repo}", "name": repo}, 409 if known else 200)

    def _preupload(self, repo: str, request: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_lfs(file["path"]) else "regular",
                "shouldIgnore": False,
            }
            for file in request["files"]
        ]
        self._reply({"files": files})

    def _lfs_batch(self, request: dict[str, Any]) -> None:
        objects: list[dict[str, Any]] = []
        for entry in request["objects"]:
            known = entry["oid"] in self.server.objects
            actions = {} if known else {"actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
            objects.append({"oid": entry["oid"], "size": entry["size"], **actions})
        self._reply({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, data: bytes) -> None:
        files = dict(self.server.repos[repo])
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self._reply({"error": f"{value['path']} was never uploaded"}, 400)
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] != "header":
                return self._reply({"error": f"unknown operation {entry['key']}"}, 400)
        commit = hashlib.sha1((self.server.commits[repo][-1] + str(sorted(files))).encode() + data).hexdigest()
        self.server.repos[repo] = files
        self.server.commits[repo].append(commit)
        self._reply({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"})

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        path = self._path()
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        match = match or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        if not match:
            return self._missing("EntryNotFound")
        repo, action, revision = match.group(1), match.group(2), match.group(3) or "main"
        if repo not in self.server.repos:
            return self._missing("RepoNotFound")
        files, commit = self.server.repos[repo], self.server.commits[repo][-1]
        if revision not in ("main", commit):
            return self._missing("RevisionNotFound")
        if action == "resolve":
            if match.group(4) not in files:
                return self._missing("EntryNotFound")
            return self._resolve(match.group(4), files[match.group(4)], commit)
        if action == "tree":
            return self._reply([self._entry(name, data) for name, data in files.items()])
        siblings = [{"rfilename": name} for name in files]
        self._reply({"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    @staticmethod
    def _entry(name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}
        if _is_lfs(name):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def _resolve(self, name: str, data: bytes, commit: str) -> None:
        etag = hashlib.sha256(data).hexdigest() if _is_lfs(name) else _blob_id(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked.group(1)), min(int(asked.group(2) or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            return self._reply(data[start : end + 1], 206, headers)
        self._reply(data, 200, headers)


def run_client(code: str, url: str, home: Path) -> str:
    """Run code with the Hub client pointed at `url`; its settings are read once, at import, hence a new process."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_loopback",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
