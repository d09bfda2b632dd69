"""An admin site with a registry behind it that a test makes up."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
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
from contentcache.core.live import Live
from contentcache.gateway.admin.page_frame import PageFrame
from contentcache.gateway.admin.sessions import Sessions
from contentcache.gateway.admin.site import AdminSite
from contentcache.gateway.authentication import AccountPolicy, Authenticator
from contentcache.gateway.cache_directory import CacheDirectory, NetworkDefaults
from contentcache.gateway.credentials import BasicCredentials, BearerCredentials, parse_credentials
from contentcache.gateway.directory import DirectoryStore
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.probe import ProbeError
from contentcache.gateway.registry_login import CredentialDecision
from tests.gateway.memory_directory import MemoryDirectory
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
    """Knows :data:`PASSWORDS` and tokens whose signature is ``good``; ``open`` accepts everything."""

    open: bool = False
    away: bool = False
    groups: Mapping[str, frozenset[str]] = field(factory=dict)
    asked: list[str] = field(factory=list)

    async def decide(self, authorization: str) -> CredentialDecision:
        self.asked.append(authorization)
        if self.away:
            raise UpstreamUnavailable("nobody is there")
        said = parse_credentials(authorization)
        if isinstance(said, BasicCredentials):
            known = self.open or PASSWORDS.get(said.username) == said.password
            return CredentialDecision(
                known, said.username, groups=self.groups.get(said.username, frozenset())
            )
        known = isinstance(said, BearerCredentials) and said.token.endswith(".good")
        return CredentialDecision(self.open or known)


@define
class FakeProbe:
    """Succeeds for every host that is not among ``dead``."""

    dead: set[str] = field(factory=set)
    asked: list[str] = field(factory=list)

    async def __call__(self, host: str, /) -> None:
        self.asked.append(host)
        if host in self.dead:
            raise ProbeError("no answer within 5 s")


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


def make_admin_site(
    registry: Any,
    store: DirectoryStore,
    directory: CacheDirectory,
    seconds: Callable[[], float],
    *,
    secure: bool,
    ttl: float = 60.0,
) -> AdminSite:
    """An admin site without randomness; ``alice`` is its administrator."""
    secret, noise = b"s" * 64, Noise()
    authenticator = Authenticator(
        registry,
        store,
        Live(AccountPolicy(["alice"], ttl=ttl)),
        run=at_once,
        monotonic=seconds,
        wall=seconds,
        secret=secret,
        randomness=noise,
    )
    sessions = Sessions(secret=secret, randomness=noise)
    return AdminSite(authenticator, directory, PageFrame.load(sessions, seconds, secure=secure))


class AdminSiteTestCase(SynchronousTestCase):
    """Has an admin site, and asks it over connections in memory."""

    secure = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = FakeRegistry()
        self.probe = FakeProbe()
        self.directory: DirectoryStore = MemoryDirectory()
        self.liveness = Liveness(
            self.directory, self.probe, run=at_once, timer=self.clock, wall=self.clock.seconds
        )
        self.site = self.make()

    def make(self, *, ttl: float = 60.0) -> AdminSite:
        """An admin site; ``alice`` is its administrator."""
        self.cache_directory = CacheDirectory(
            self.directory,
            self.liveness,
            run=at_once,
            new_id=Numbers(),
            networks=Live(NetworkDefaults.of({"192.0.2.0/24": "near"})),
        )
        return make_admin_site(
            self.registry,
            self.directory,
            self.cache_directory,
            self.clock.seconds,
            secure=self.secure,
            ttl=ttl,
        )

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        address: str = "198.51.100.7",
    ) -> Reply:
        """One request."""
        site = Site(self.site, reactor=self.clock)
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
    """Stores cookies, fills in forms, and sends what browsers send."""

    def __init__(self, case: AdminSiteTestCase, address: str = "198.51.100.7") -> None:
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

    def call(self, method: str, target: str, **headers: str) -> Reply:
        """A request of the page's script to the API."""
        given = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty", "Content-Type": JSON}
        given |= {name.replace("_", "-"): text for name, text in headers.items()}
        body = b"" if method == "GET" else b'{"name": "near", "host": "https://near.example"}'
        return self._send(method, f"/api/v0{target}", given, body, is_page=False)

    def sign_in(self, username: str, password: str | None = None) -> Reply:
        """As people do it."""
        self.get("/settings")
        return self.post("/settings/sign-in", username=username, password=password or PASSWORDS[username])

    @property
    def csrf(self) -> str:
        """The token in the page's forms."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.page)
        return "" if found is None else found[1]

    def _send(
        self, method: str, target: str, headers: dict[str, str], body: bytes = b"", *, is_page: bool = True
    ) -> Reply:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        reply = self._case.send(method, target, headers, body, self._address)
        for line in reply.headers.getRawHeaders("Set-Cookie") or ():
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
            if "Max-Age=0" in line:
                del self.cookies[name]
        if reply.body and is_page:
            self.page = reply.body.decode()
        return reply
