"""Tests for :mod:`contentcache.registry.origin_selection`, through the API."""

from __future__ import annotations

from contentcache.config.model import Upstream
from tests.registry.harness import DIGEST, HOST, RegistryTestCase, replies


def _upstream(name: str, **more: object) -> Upstream:
    host = f"https://{name}"
    settings: dict[str, object] = {"names": frozenset({name}), **more}
    return Upstream(host, (host,), **settings)  # type: ignore[arg-type]


class ChooseTests(RegistryTestCase):
    """Which origin is asked, and for which repository."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = self.build(
            _upstream("first.example"),
            _upstream("second.example:5000", served=frozenset({"mirror.example", "mirror.example:81"})),
            _upstream("docker.io"),
            _upstream("third.example", prefix="third", public=True),
        )

    def asked(self, target: str, host: str = "cache:5000") -> tuple[str, str]:
        """The origin and the repository of a question."""
        self.services.asked.clear()
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        (reply,) = replies(self.client().send(head).transport.value())
        self.assertEqual(reply.status, 200, reply.body)
        (asking,) = self.services.asked
        return asking.registry.upstream.origin.removeprefix("https://"), asking.content.repository

    def blob(self, repository: str, query: str = "") -> str:
        """A blob's path."""
        return f"/v2/{repository}/blobs/{DIGEST}{query}"

    def test_first(self) -> None:
        """Without any sign it is the first one."""
        self.assertEqual(self.asked(self.blob("a/b")), ("first.example", "a/b"))

    def test_namespace(self) -> None:
        """``?ns=`` comes before all other signs; case and a final dot do not count."""
        for namespace in ("second.example:5000", "SECOND.example:5000", "second.example%3A5000"):
            target = self.blob("third/a", f"?ns={namespace}")
            self.assertEqual(self.asked(target, "mirror.example"), ("second.example:5000", "third/a"))
        self.assertEqual(self.asked(self.blob("a", "?ns=third.example.")), ("third.example", "a"))
        for namespace in ("docker.io", "index.docker.io", "registry-1.docker.io"):
            self.assertEqual(self.asked(self.blob("a", f"?ns={namespace}")), ("docker.io", "a"))

    def test_namespace_and_prefix(self) -> None:
        """
        With ``?ns=`` the prefix of that origin is taken off too, and of no other; the port that a scheme
        has anyway may be said.
        """
        self.factory = self.build(
            Upstream(
                "https://a.example", ("https://a.example",), names=frozenset({"a.example"}), prefix="hub"
            ),
            Upstream("http://b.example", ("http://b.example",), names=frozenset({"b.example"}), prefix="b"),
        )
        for target, expected in (
            (self.blob("hub/x/y", "?ns=a.example"), ("a.example", "x/y")),
            (self.blob("x/y", "?ns=a.example:443"), ("a.example", "x/y")),
            (self.blob("hub/x", "?ns=A.example:443"), ("a.example", "x")),
            (self.blob("b/x", "?ns=a.example"), ("a.example", "b/x")),
            (self.blob("hub", "?ns=a.example"), ("a.example", "hub")),
            (self.blob("b/x", "?ns=b.example:80"), ("http://b.example", "x")),
        ):
            with self.subTest(target=target):
                self.assertEqual(self.asked(target), expected)
        for namespace in ("a.example:80", "b.example:443", "a.example:5000", ":443"):
            self.assert_refused(self.ask(f"/v2/?ns={namespace}"), 404, "NAME_UNKNOWN")

    def test_unknown_namespace(self) -> None:
        """An unknown one is 404 on every route, and says so; nobody is asked."""
        for namespace in ("evil.example", "", "second.example", "http://a", "x" * 5000, "169.254.169.254"):
            for path in ("/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/manifests/1", self.blob("a")):
                reply = self.ask(f"{path}?ns={namespace}")
                self.assert_refused(reply, 404, "NAME_UNKNOWN")
        self.assertIn(b"evil.example", self.ask("/v2/?ns=evil.example").body)
        self.assertEqual(self.services.asked, [])

    def test_host(self) -> None:
        """The host that was asked, with its port or without; an absolute target has the last word."""
        for host in ("mirror.example", "MIRROR.example:443", "mirror.example:81"):
            self.assertEqual(self.asked(self.blob("a"), host)[0], "second.example:5000")
        self.assertEqual(self.asked(self.blob("a"), "other.mirror.example")[0], "first.example")
        self.assertEqual(
            self.asked("http://mirror.example" + self.blob("a"), "other")[0], "second.example:5000"
        )

    def test_prefix(self) -> None:
        """The first component, which the origin does not see; alone it is a name like others."""
        self.assertEqual(self.asked(self.blob("third/a/b")), ("third.example", "a/b"))
        self.assertEqual(self.asked(self.blob("third")), ("first.example", "third"))

    def test_no_host(self) -> None:
        """An empty ``Host`` means nothing."""
        self.assertEqual(self.asked(self.blob("a"), "")[0], "first.example")
        self.assertIn("cache.example", HOST)
