"""A desk with a registry behind it that a test makes up."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.server import Site
from twisted.web.test.requesthelper import DummyChannel

from contentcache.aio.threads import at_once
from contentcache.core.errors import UpstreamUnavailable
from contentcache.gateway.accounts import Verdict
from contentcache.gateway.choosing import Networks
from contentcache.gateway.credentials import BasicCredentials, BearerCredentials, parse_credentials
from contentcache.gateway.desk import Desk, make_desk
from contentcache.gateway.directory import Directory
from contentcache.gateway.liveness import Liveness, NotAlive
from contentcache.gateway.memory import MemoryDirectory
from tests.registry.harness import Reply, replies

PASSWORDS: Final = {"alice": "wonder", "bob": "builder", "org/robot": "beep"}
HOST: Final = "registry.example"
ORIGIN: Final = f"https://{HOST}"
JSON: Final = "application/json"


def token(sub: str, signature: str = "good", **claims: object) -> str:
    """A JWT as this registry's token server writes it."""
    parts = ({"alg": "ES256"}, {"sub": sub, **claims})
    head = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
    return f"{head}.{signature}"


def basic(username: str, password: str | None = None) -> str:
    """A header for one of the registry's accounts."""
    return BasicCredentials(username, PASSWORDS[username] if password is None else password).authorization


@define
class FakeRegistry:
    """Knows :data:`PASSWORDS` and tokens whose signature is ``good``. ``open`` says yes to everybody."""

    open: bool = False
    away: bool = False
    groups: Mapping[str, frozenset[str]] = field(factory=dict)
    asked: list[str] = field(factory=list)

    async def accepts(self, authorization: str) -> Verdict:
        self.asked.append(authorization)
        if self.away:
            raise UpstreamUnavailable("nobody is there")
        said = parse_credentials(authorization)
        if isinstance(said, BasicCredentials):
            known = self.open or PASSWORDS.get(said.username) == said.password
            return Verdict(known, said.username, groups=self.groups.get(said.username, frozenset()))
        known = isinstance(said, BearerCredentials) and said.token.endswith(".good")
        return Verdict(self.open or known)


@define
class FakeProbe:
    """Says that every host lives that is not among ``dead``."""

    dead: set[str] = field(factory=set)
    asked: list[str] = field(factory=list)

    async def __call__(self, host: str, /) -> None:
        self.asked.append(host)
        if host in self.dead:
            raise NotAlive("no answer within 5 s")


class Noise:
    """Random bytes that are the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(str(self._count).encode()).digest(size)


class Numbers:
    """New ids, one after the other."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> UUID:
        self._count += 1
        return UUID(int=self._count)


class DeskTestCase(SynchronousTestCase):
    """Has a desk, and asks it over connections in memory."""

    secure = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = FakeRegistry()
        self.probe = FakeProbe()
        self.directory: Directory = MemoryDirectory()
        self.liveness = Liveness(
            self.directory, self.probe, run=at_once, timer=self.clock, wall=self.clock.seconds
        )
        self.desk = self.make()

    def make(self, **more: Any) -> Desk:
        """A desk; ``alice`` is its administrator."""
        given: dict[str, Any] = {
            "run": at_once,
            "monotonic": self.clock.seconds,
            "wall": self.clock.seconds,
            "randomness": Noise(),
            "secret": b"s" * 64,
            "secure": self.secure,
            "new_id": Numbers(),
            "networks": Networks.of({"192.0.2.0/24": "near"}),
            "admins": ["alice"],
        }
        return make_desk(self.directory, self.liveness, self.registry, **(given | more))

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        address: str = "198.51.100.7",
    ) -> Reply:
        """One request."""
        site = Site(self.desk.resource, reactor=self.clock)
        channel = DummyChannel()
        channel.transport = DummyChannel.TCP(IPv4Address("TCP", address, 40000))
        request = site.requestFactory(channel, False)
        request.site = channel.site = site
        request.requestHeaders = Headers({"Host": [HOST], **{k: [v] for k, v in (headers or {}).items()}})
        request.content = BytesIO(body)
        request.parseCookies()
        request.requestReceived(method.encode(), target.encode("latin-1"), b"HTTP/1.1")
        (reply,) = replies(channel.transport.written.getvalue(), method)
        return reply

    def ask(
        self, method: str, target: str, who: str | None = "alice", value: object = None, **headers: str
    ) -> Reply:
        """One request to the API, by an account; ``value`` is sent as JSON."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        if who is not None:
            given.setdefault("Authorization", basic(who))
        body = b""
        if value is not None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            given.setdefault("Content-Type", JSON)
        return self.send(method, f"/api/v0{target}", given, body)

    def assert_error(self, reply: Reply, status: int, code: str) -> None:
        """An error in the original's form."""
        self.assertEqual((reply.status, reply.header("Content-Type")), (status, JSON), reply.body)
        (entry,) = json.loads(reply.body)["errors"]
        self.assertEqual(entry["code"], code)
        self.assertEqual(set(entry), {"code", "message", "detail"})
        self.assertTrue(entry["message"])


class Browser:
    """Keeps cookies, fills in forms, and says what browsers say."""

    def __init__(self, case: DeskTestCase, address: str = "198.51.100.7") -> None:
        self._case = case
        self._address = address
        self.cookies: dict[str, str] = {}
        self.page = ""

    def get(self, target: str, **headers: str) -> Reply:
        """Load a page."""
        return self._send("GET", target, {name.replace("_", "-"): text for name, text in headers.items()})

    def post(
        self, target: str, *, csrf: str | None = None, headers: Mapping[str, str] | None = None, **form: str
    ) -> Reply:
        """Send a form of the page that was loaded last, with its token."""
        form["csrf"] = self.csrf if csrf is None else csrf
        given = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"} if headers is None else dict(headers)
        given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return self._send("POST", target, given, urlencode(form).encode())

    def sign_in(self, username: str, password: str | None = None) -> Reply:
        """As people do it."""
        self.get("/settings")
        return self.post("/settings/sign-in", username=username, password=password or PASSWORDS[username])

    @property
    def csrf(self) -> str:
        """The token in the page's forms."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.page)
        return "" if found is None else found[1]

    def _send(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Reply:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        reply = self._case.send(method, target, headers, body, self._address)
        for line in reply.headers.getRawHeaders("Set-Cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
            if "Max-Age=0" in line:
                del self.cookies[name]
        if reply.body:
            self.page = reply.body.decode()
        return reply
