"""docker-registry as the origin: Debian's package, one process for each test."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from attrs import frozen

from tests.real.certificates import Authority, Certificate
from tests.real.programs import PATIENCE, USER_AGENT, Case, Process, on_free_port, place, run, status_of
from tests.real.tokens import TokenServer

_ACCESS = re.compile(
    r'(?P<host>\S+) - (?P<user>\S+) \[[^\]]*\] "(?P<method>\S+) (?P<uri>\S+) [^"]*" '
    r'(?P<status>\d+) (?P<size>\d+) "[^"]*" "(?P<agent>[^"]*)"'
)

#: The account with which the harness pushes.
PUSHER = "pusher"


@frozen
class Access:
    """A line of the access log. ``size`` counts the body's bytes."""

    method: str
    uri: str
    status: int
    size: int
    agent: str


@frozen
class Answer:
    """A whole answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Origin:
    """
    A running docker-registry with deletion enabled.

    With ``users`` it asks for htpasswd accounts, with ``tokens`` for tokens of that server; with
    ``tls`` it speaks TLS, and ``authority`` is then what the harness itself trusts. ``settings``
    are merged over its configuration, section by section; ``proxy`` makes it a pull-through
    cache of that URL, ``env`` is added to its environment. ``command`` is another program of its kind.
    """

    def __init__(
        self,
        case: Case,
        *,
        users: Mapping[str, str] | None = None,
        tokens: TokenServer | None = None,
        tls: Certificate | None = None,
        authority: Authority | None = None,
        proxy: str | None = None,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        root: Path | None = None,
        env: Mapping[str, str] | None = None,
        command: str = "docker-registry",
    ) -> None:
        self._case = case
        self._env = env
        self._command = command
        self._folder = place(case)
        self._marks: Iterator[int] = count(1)
        self.root = root or self._folder / "root"
        self.tokens = tokens
        self.tls = tls
        self.authority = authority
        self.users = dict(users) if users is not None else None
        self._sections: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": str(self.root)}, "delete": {"enabled": True}},
            **self._auth(),
        }
        if proxy is not None:
            self._sections["proxy"] = {"remoteurl": proxy}
        self._settings = settings or {}
        self.port = 0
        self.process = on_free_port(self._start)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def stop(self) -> None:
        """End it; ``restart`` brings it back on the same port."""
        self.process.stop()

    def restart(self) -> None:
        """Start it again on the same port, with everything that it had."""
        self.process.stop()
        self.process = self._start(self.port)

    def set_users(self, users: Mapping[str, str]) -> None:
        """Replace the htpasswd accounts while it runs."""
        assert self.users is not None, "this origin has no htpasswd"
        before = self._htpasswd.stat().st_mtime
        self.users = dict(users)
        self._write_htpasswd()
        os.utime(self._htpasswd, (before + 2, before + 2))  # its own test of freshness is the mtime

    def requests(self, *, agent: str | None = None) -> list[Access]:
        """
        What it was asked so far, the harness's own requests left out; only those whose
        ``User-Agent`` contains ``agent`` if given.

        A line is written when its answer is out; a request of our own, sent now and waited for in the
        log, comes after the lines of all answers that clients have seen.
        """
        mark = f"/v2/?mark={next(self._marks)}"
        status_of(self.url + mark)
        self.process.wait_until(lambda: f'"GET {mark} ' in self.process.log(), "the mark in its log")
        found = map(_access, self.process.log().splitlines())
        return [
            line
            for line in found
            if line is not None and USER_AGENT not in line.agent and (agent is None or agent in line.agent)
        ]

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request of the harness, with an account that may do anything."""
        connection = self._connection()
        sent = {"User-Agent": USER_AGENT, **self._authorization(path), **(headers or {})}
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def authorization(self, account: str, name: str, password: str = "secret") -> str:
        """What an account that may pull ``name`` says to this registry."""
        if self.tokens is None:
            return basic(account, password)
        access = self.tokens.grant(account, [f"repository:{name}:pull"])
        return f"Bearer {self.tokens.token(account, access)}"

    def delete_manifest(self, name: str, digest: str) -> None:
        """Take a manifest away, and its tags with it."""
        answer = self.request("DELETE", f"/v2/{name}/manifests/{digest}")
        assert answer.status == 202, answer

    def blob_file(self, digest: str) -> Path:
        """Where it keeps a blob, whether or not it has it."""
        return blob_path(self.root, digest)

    def _start(self, port: int) -> Process:
        self.port = port
        http: dict[str, object] = {"addr": self.host, "relativeurls": True}
        if self.tls is not None:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        whole: dict[str, object] = {**self._sections, "http": http}
        for section, values in self._settings.items():
            present = whole.get(section)
            whole[section] = {**present, **values} if isinstance(present, dict) else dict(values)
        path = self._folder / "config.yml"
        path.write_text(json.dumps(whole), "utf-8")
        words: list[str | Path] = [self._command, "serve", path]
        process = Process(self._case, words, name="docker-registry", env=self._env)
        process.wait_for(f"{self.url}/v2/")
        return process

    def _auth(self) -> dict[str, object]:
        if self.tokens is not None:
            return {
                "auth": {
                    "token": {
                        "realm": self.tokens.realm,
                        "service": self.tokens.service,
                        "issuer": self.tokens.issuer,
                        "rootcertbundle": str(self.tokens.bundle),
                    }
                }
            }
        if self.users is not None:
            self._write_htpasswd()
            return {"auth": {"htpasswd": {"realm": "tests", "path": str(self._htpasswd)}}}
        return {}

    @property
    def _htpasswd(self) -> Path:
        return self._folder / "htpasswd"

    def _write_htpasswd(self) -> None:
        accounts = {**(self.users or {}), PUSHER: PUSHER}
        lines = [
            run(["htpasswd", "-nbB", "-C", "4", name, password]).stdout.strip()
            for name, password in accounts.items()
        ]
        fresh = self._htpasswd.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n", "utf-8")
        fresh.replace(self._htpasswd)

    def _authorization(self, path: str) -> dict[str, str]:
        if self.tokens is not None:
            found = re.match(r"/v2/(.+)/(?:blobs|manifests|tags|referrers)/", path)
            name = found[1] if found else "none"
            access = [{"type": "repository", "name": name, "actions": ["pull", "push", "delete"]}]
            return {"Authorization": f"Bearer {self.tokens.token(PUSHER, access)}"}
        if self.users is not None:
            return {"Authorization": basic(PUSHER, PUSHER)}
        return {}

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        context = ssl.create_default_context(cafile=str(self.authority.path) if self.authority else None)
        if self.authority is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)


def basic(account: str, password: str) -> str:
    """
    The value of an ``Authorization`` header (RFC 7617).

    >>> basic("a", "b")
    'Basic YTpi'
    """
    return "Basic " + base64.b64encode(f"{account}:{password}".encode()).decode()


def blob_path(root: Path, digest: str) -> Path:
    """Where the registry's layout keeps a blob below ``root``."""
    algorithm, _, digits = digest.partition(":")
    return root / "docker/registry/v2/blobs" / algorithm / digits[:2] / digits / "data"


def _access(line: str) -> Access | None:
    match = _ACCESS.match(line)
    if match is None:
        return None
    return Access(match["method"], match["uri"], int(match["status"]), int(match["size"]), match["agent"])
