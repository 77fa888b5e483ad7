"""A small Hub on the loopback: the endpoints that huggingface_hub's own client uses to read, and to push.

It holds repositories in memory, as commits of whole files, writes down every request, and can be told to fail: drop a
connection within a file, answer an error for a while, be slow, be gated, ask for a login.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "t" * 24
"""What the one known user sends; it has the form of a real one, so that tests can look for it in what is written."""
USER = "tester"
LFS_PATTERNS = ("*.safetensors", "*.parquet", "*.bin", "*.gz")
LFS_FROM_BYTES = 1 << 20
CHUNK = 1 << 14
KINDS = {"models": "", "datasets": "datasets/"}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return size >= LFS_FROM_BYTES or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)


@dataclass
class Repo:
    """One repository: its commits, each all of its files, and its branches."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], message: str = "") -> str:
        digest = hashlib.sha1(f"{len(self.commits)}{message}".encode())
        for path, data in sorted(files.items()):
            digest.update(path.encode() + git_oid(data).encode())
        sha = digest.hexdigest()
        self.commits[sha] = dict(files)
        self.refs["main"] = sha
        self.messages.append(message)
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]

    def sha_of(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Request:
    """One request as it is answered; it is in the log before the client can have an answer."""

    method: str
    path: str
    range: str
    status: int
    sent: int
    has_token: bool


class HubServer(ThreadingHTTPServer):
    """The server; ``with HubServer() as hub`` runs it in a thread of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[Request] = []
        self.tokens = {TOKEN: USER}
        self.failures: list[list[Any]] = []
        self.drops: list[list[Any]] = []
        self.slow_s = 0.0
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were dropped on purpose, or by a client that was killed."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn_endpoint(self) -> str:
        """Another host by its name, as large files lie on one: the client must not send it a token."""
        return f"http://localhost:{self.server_address[1]}"

    def add(self, repo_id: str, source: Path | Mapping[str, bytes], *, kind: str = "models", **flags: bool) -> Repo:
        """Put a repository here, of a folder's files or of given ones."""
        repo = self.repos[kind, repo_id] = Repo(**flags)
        self.commit(repo, source, "first")
        return repo

    def commit(self, repo: Repo, source: Path | Mapping[str, bytes], message: str) -> str:
        """Add a commit of a folder's files, or of given ones, to a repository."""
        if isinstance(source, Path):
            source = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
        for path, data in source.items():
            if is_lfs(path, len(data)):
                self.objects[hashlib.sha256(data).hexdigest()] = data
        return repo.commit(source, message)

    def fail(self, text: str, status: int, times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next requests whose path holds a text with an error."""
        self.failures.append([text, status, times, dict(headers or {})])

    def drop(self, text: str, after: int, times: int = 1) -> None:
        """Drop the connection after so many bytes of the next bodies, sent or received, whose path holds a text."""
        self.drops.append([text, after, times])

    def taken(self, faults: list[list[Any]], method_and_path: str) -> list[Any] | None:
        with self.lock:
            for fault in faults:
                if fault[0] in method_and_path and fault[2] > 0:
                    fault[2] -= 1
                    return fault
        return None

    def asked(self, method: str, text: str) -> list[Request]:
        return [request for request in self.log if request.method == method and text in request.path]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every body waits 40 ms for the client's word that it has the header
    server: HubServer

    def log_message(self, *_: object) -> None:
        """Keep stderr clean; ``HubServer.log`` has all."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def answer(self) -> None:
        split = urlsplit(self.path)
        self.where, self.query = unquote(split.path), parse_qs(split.query)
        self.gone = False
        body = self.body()
        if body is None:
            return
        failure = self.server.taken(self.server.failures, f"{self.command} {self.where}")
        if failure is not None:
            self.send(failure[1], b"down", failure[3])
            return
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, self.where)
            if found:
                method(self, body, **found.groupdict())
                return
        self.send(404, b"no such endpoint here")

    def body(self) -> bytes | None:
        """Read what was sent; ``None`` where the connection is to be dropped within it."""
        drop = self.server.taken(self.server.drops, f"{self.command} {self.where}") if self.command == "PUT" else None
        data = bytearray()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
                if drop and len(data) >= drop[1]:
                    break
            else:
                self.rfile.readline()
        else:
            wanted = int(self.headers.get("Content-Length") or 0)
            data += self.rfile.read(min(wanted, drop[1]) if drop else wanted)
        if drop:
            self.note(0, len(data))
            self.hang_up()
            return None
        return bytes(data)

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def note(self, status: int, sent: int) -> Request:
        asked_range, has_token = self.headers.get("Range", ""), "Authorization" in self.headers
        request = Request(self.command, self.where, asked_range, status, sent, has_token)
        with self.server.lock:
            self.server.log.append(request)
        return request

    def send(self, status: int, data: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        drop = self.server.taken(self.server.drops, f"{self.command} {self.where}") if self.command == "GET" else None
        request = self.note(status, 0)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        sent = 0
        if self.command != "HEAD":
            try:
                while sent < len(data):
                    request.sent = end = min(sent + CHUNK, len(data), drop[1] if drop else len(data))
                    self.wfile.write(data[sent:end])
                    sent = end
                    if drop and sent >= drop[1]:
                        self.wfile.flush()
                        self.hang_up()
                        break
                    if self.server.slow_s and len(data) > CHUNK:
                        time.sleep(self.server.slow_s)
            except OSError:
                self.close_connection = True

    def send_json(self, content: Any, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    @property
    def user(self) -> str | None:
        return self.server.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        """Return a repository that this client may see, or refuse."""
        found = self.server.repos.get((kind, repo_id))
        if found is None or (found.private and self.user is None):
            # The Hub tells a stranger nothing of what is private: both cases look the same.
            self.refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def revision(self, repo: Repo, revision: str) -> str | None:
        sha = repo.sha_of(revision)
        if sha is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # reading

    def info(self, body: bytes, kind: str, id: str, rev: str | None = None) -> None:
        repo = self.repo(kind, id)
        sha = self.revision(repo, rev or "main") if repo else None
        if repo is None or sha is None:
            return
        blobs = "blobs" in self.query
        siblings = [
            {"rfilename": path} | (described(path, data, "sha256") if blobs else {})
            for path, data in sorted(repo.commits[sha].items())
        ]
        gated = "manual" if repo.gated else False
        self.send_json(
            {"_id": "1", "id": id, "modelId": id, "author": id.split("/")[0], "sha": sha, "private": repo.private,
             "gated": gated, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
             "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z"}
        )  # fmt: skip

    def entries(self, repo: Repo, sha: str) -> list[dict[str, Any]]:
        files = [
            {"type": "file", "path": path, "oid": git_oid(data), "size": len(data)} | described(path, data, "oid")
            for path, data in sorted(repo.commits[sha].items())
        ]
        folders = {str(parent) for path in repo.commits[sha] for parent in Path(path).parents} - {"."}
        return files + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]

    def tree(self, body: bytes, kind: str, id: str, rev: str, under: str | None = None) -> None:
        repo = self.repo(kind, id)
        sha = self.revision(repo, rev) if repo else None
        if repo is None or sha is None:
            return
        under = (under or "").strip("/")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found = [
            entry
            for entry in self.entries(repo, sha)
            if (not under or entry["path"].startswith(under + "/"))
            and (deep or "/" not in entry["path"].removeprefix(under + "/" if under else ""))
        ]
        if under and not found:
            self.refuse(404, "EntryNotFound", f"{under} does not exist on {rev}")
            return
        self.send_json(found)

    def paths_info(self, body: bytes, kind: str, id: str, rev: str) -> None:
        repo = self.repo(kind, id)
        sha = self.revision(repo, rev) if repo else None
        if repo is None or sha is None:
            return
        text = body.decode()
        asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        self.send_json([entry for entry in self.entries(repo, sha) if entry["path"] in asked])

    def resolve(self, body: bytes, id: str, rev: str, path: str, prefix: str | None = None) -> None:
        repo = self.repo("datasets" if prefix else "models", id)
        if repo is None:
            return
        if repo.gated:
            told = "is restricted and you are not in the authorized list" if self.user else "Please log in."
            self.refuse(403 if self.user else 401, "GatedRepo", f"Access to {id} is restricted. {told}")
            return
        sha = self.revision(repo, rev)
        if sha is None:
            return
        data = repo.commits[sha].get(path)
        if data is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if is_lfs(path, len(data)):
            oid = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            self.send(302, b"", headers | linked | {"Location": f"{self.server.cdn_endpoint}/cdn/{oid}/{path}"})
            return
        self.send_part(data, headers | {"ETag": f'"{git_oid(data)}"'})

    def cdn(self, body: bytes, oid: str, path: str) -> None:
        self.send_part(self.server.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def send_part(self, data: bytes, headers: Mapping[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self.send(200, data, headers)
            return
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        if start >= len(data):
            self.send(416, b"", dict(headers) | {"Content-Range": f"bytes */{len(data)}"})
            return
        told = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        self.send(206, data[start:stop], dict(headers) | told)

    # writing

    def whoami(self, body: bytes) -> None:
        if self.user is None:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return
        access = {"displayName": "test", "role": "write"}
        self.send_json({"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": access}})

    def may_write(self, repo_id: str) -> bool:
        if self.user is None:
            self.refuse(401, "", "Invalid username or password.")
        elif not repo_id.startswith(f"{self.user}/"):
            self.refuse(403, "", f"You don't have the rights to create a model under {repo_id.split('/')[0]}")
        else:
            return True
        return False

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        kind = f"{asked.get('type', 'model')}s"
        if not self.may_write(repo_id):
            return
        url = f"{self.server.endpoint}/{KINDS[kind]}{repo_id}"
        if (kind, repo_id) in self.server.repos:
            self.send_json({"error": "You already created this model repo", "url": url}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repos[kind, repo_id] = repo = Repo(private=private)
        repo.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit")
        self.send_json({"url": url, "name": repo_id, "id": repo_id})

    def validate(self, body: bytes) -> None:
        text = json.loads(body)["content"]
        errors = []
        try:
            metadata = yaml.safe_load(text.split("---")[1])
            if not isinstance(metadata, dict) or not metadata.get("license"):
                errors.append({"message": '"license" is missing'})
        except (yaml.YAMLError, IndexError) as error:
            errors.append({"message": str(error)})
        self.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, body: bytes, kind: str, id: str, rev: str) -> None:
        repo = self.repo(kind, id)
        if repo is None or not self.may_write(id):
            return
        files = []
        for asked in json.loads(body)["files"]:
            held = repo.files.get(asked["path"])
            mode = "lfs" if is_lfs(asked["path"], asked["size"]) else "regular"
            oid = None
            if held is not None:
                oid = hashlib.sha256(held).hexdigest() if mode == "lfs" else git_oid(held)
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.send_json({"files": files})

    def batch(self, body: bytes, id: str, prefix: str | None = None) -> None:
        if not self.may_write(id):
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.objects:
                entry["actions"] = {
                    "upload": {"href": f"{self.server.endpoint}/lfs/{asked['oid']}"},
                    "verify": {"href": f"{self.server.endpoint}/lfs-verify"},
                }
            objects.append(entry)
        self.send_json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.send(400, b"another content")
            return
        self.server.objects[oid] = body
        self.send(200)

    def verify(self, body: bytes) -> None:
        self.send(200 if json.loads(body)["oid"] in self.server.objects else 404)

    def commit(self, body: bytes, kind: str, id: str, rev: str) -> None:
        repo = self.repo(kind, id)
        if repo is None or not self.may_write(id):
            return
        files, message = dict(repo.files), ""
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repo.commit(files, message)
        url = f"{self.server.endpoint}/{KINDS[kind]}{id}/commit/{sha}"
        self.send_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def described(path: str, data: bytes, key: str) -> dict[str, Any]:
    """Return what the Hub tells of a file; the two endpoints name the hash of a large one differently."""
    told: dict[str, Any] = {"size": len(data), "blobId": git_oid(data)}
    if is_lfs(path, len(data)):
        told["lfs"] = {key: hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return told


ID = r"(?P<id>[^/]+/[^/]+?)"
API = rf"/api/(?P<kind>models|datasets)/{ID}"
ROUTES = [
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (API, Handler.info),
    (rf"{API}/revision/(?P<rev>.+)", Handler.info),
    (rf"{API}/tree/(?P<rev>[^/]+)(?P<under>/.*)?", Handler.tree),
    (rf"{API}/paths-info/(?P<rev>[^/]+)", Handler.paths_info),
    (rf"{API}/preupload/(?P<rev>[^/]+)", Handler.preupload),
    (rf"{API}/commit/(?P<rev>[^/]+)", Handler.commit),
    (rf"/(?P<prefix>datasets/)?{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Handler.resolve),
    (rf"/(?P<prefix>datasets/)?{ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/cdn/(?P<oid>[0-9a-f]{64})/(?P<path>.+)", Handler.cdn),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.put),
    (r"/lfs-verify", Handler.verify),
]
"""Patterns of paths, and who answers them; the first that fits."""
