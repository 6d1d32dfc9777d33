"""A Hub on this machine, with the part of the protocol that the client needs to create, write and read a repository.

    with HubServer(token="hf_secret") as hub:
        probe.push_to_hub("me/probe", token="hf_secret", endpoint=hub.url)
        hub.repositories["me/probe"].branches["main"]     # its commits, oldest first
        hub.faults["/commit/"] = (500, "")                # the answer if the path contains this

Reading is open to all; writing asks for the token. Every commit is a whole tree of files. Data sets are read by name as
models are (`hub.add("me/questions", {"data/train.parquet": …})`), also by the library `datasets`.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

_KIND = re.compile(r"^(/api)?(/models|/datasets)?")  # of repository, before its name


class Commit(NamedTuple):
    """One state of a repository."""

    sha: str
    message: str
    files: dict[str, bytes]


class Repository:
    """Branches of commits; a new one has an empty first commit, as on the Hub."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.branches: dict[str, list[Commit]] = {"main": [_commit("initial commit", {}, "")]}

    def find(self, revision: str) -> Commit | None:
        """The last commit of a branch, or the commit of this name."""
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.sha == revision), None)


class HubServer:
    """A Hub that runs inside the `with` statement."""

    def __init__(self, token: str = "hf_secret") -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # method and path, in order
        self.faults: dict[str, tuple[int, str]] = {}  # part of a path → status, message
        server = self

        class Bound(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def add(self, name: str, files: dict[str, bytes]) -> None:
        """A repository with these files."""
        self.repositories[name] = Repository(private=False)
        self.repositories[name].branches["main"].append(_commit("files", files, ""))

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path()
        if self._faulty(path):
            return
        if "/paths-info/" in path:
            self._list(path, [unquote(name) for name in parse_qs(body.decode())["paths"]])
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        else:
            self._write(path.split("/")[3:], body)  # /api/models/owner/name/…

    def do_GET(self) -> None:
        self._resolve(with_body=True)

    def do_HEAD(self) -> None:
        self._resolve(with_body=False)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        address = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repositories:
            self._answer(409, json.dumps({"error": "You already created this model repo", **address}).encode())
            return
        self.hub.repositories[name] = Repository(wanted.get("visibility") == "private")
        self._json(address)

    def _validate(self, content: str) -> None:
        """Check a README as the Hub does: its front matter must be YAML, and base_model the name of a repository."""
        fields = yaml.safe_load(content.split("---\n")[1])
        wrong = [] if fields.get("base_model", "a/b").count("/") == 1 else [{"message": "base_model"}]
        self._answer(400 if wrong else 200, json.dumps({"errors": wrong, "warnings": []}).encode())

    def _write(self, parts: list[str], body: bytes) -> None:
        owner, name, verb, branch = parts
        repository = self.hub.repositories[f"{owner}/{name}"]
        if verb == "branch":
            if branch in repository.branches:
                self._refuse(409, "Reference already exists")
                return
            repository.branches[branch] = list(repository.branches["main"])
            self._json({})
        elif verb == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif verb == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            last = repository.branches[branch][-1]
            new = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = _commit(lines[0]["value"]["summary"], {**last.files, **new}, last.sha)
            repository.branches[branch].append(commit)
            self._json({"commitOid": commit.sha, "commitUrl": f"{self.hub.url}/{owner}/{name}/commit/{commit.sha}"})

    def _resolve(self, with_body: bool) -> None:
        path = self._path()
        if self._faulty(path):
            return
        if "/tree/" in path:
            self._list(path, None)
            return
        parts = _KIND.sub("", path)[1:].split("/", 4)  # owner/name, and /resolve/revision/file
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None:
            # The Hub answers this so as not to reveal what exists.
            self._refuse(401, "Invalid username or password.", "RepoNotFound")
            return
        if len(parts) == 2 or parts[2] == "revision":
            self._json({"id": "/".join(parts[:2]), "sha": repository.branches["main"][-1].sha})
            return
        revision, file = parts[3:]
        commit = repository.find(unquote(revision))
        if commit is None:
            self._refuse(404, "Invalid rev id", "RevisionNotFound")
            return
        headers = {"X-Repo-Commit": commit.sha}
        if file not in commit.files:
            self._refuse(404, "Entry not found", "EntryNotFound", headers)
            return
        content = commit.files[file]
        headers["ETag"] = f'"{_sha(content)}"'
        self._answer(200, content, headers, with_body)

    def _list(self, path: str, names: list[str] | None) -> None:
        """Files under a folder (/tree/revision/folder), or those of the given names that exist
        (/paths-info/revision).
        """
        owner, name, _, revision, *folder = _KIND.sub("", path)[1:].split("/", 4)
        repository = self.hub.repositories[f"{owner}/{name}"]
        files = (repository.find(unquote(revision)) or repository.branches["main"][-1]).files
        under = f"{unquote(folder[0])}/" if folder else ""
        kept = [f for f in files if f.startswith(under)] if names is None else [f for f in names if f in files]
        rows = [{"type": "file", "path": f, "size": len(files[f]), "oid": _sha(files[f])} for f in kept]
        inner = [f for f in files if f.startswith(under) and "/" in f[len(under) :]]
        folders = {f[: f.index("/", len(under))] for f in inner}
        wanted = folders if names is None else folders & set(names)
        rows += [{"type": "directory", "path": f, "size": 0, "oid": _sha(f.encode())} for f in sorted(wanted)]
        self._json(rows)

    def _path(self) -> str:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _faulty(self, path: str) -> bool:
        for part, (status, message) in self.hub.faults.items():
            if part in path:
                self._refuse(status, message)
                return True
        return False

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode())

    def _refuse(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(
            status,
            json.dumps({"error": message}).encode(),
            {**extra, **(headers or {})},
            self.command != "HEAD",
        )

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def _sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _commit(message: str, files: dict[str, bytes], parent: str) -> Commit:
    whole = repr((message, sorted(files.items()), parent)).encode()
    return Commit(hashlib.sha1(whole).hexdigest(), message, files)
