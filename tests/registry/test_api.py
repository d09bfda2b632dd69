"""Tests for :mod:`contentcache.registry.api`: what is asked of whom, and what goes out."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from contentcache.config.model import Upstream
from contentcache.core.credentials import OWN, Credential
from contentcache.core.errors import (
    ContentWrong,
    LoopDetected,
    OriginRefused,
    Overloaded,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import Headers
from contentcache.delivery.origin_queries import Pinged
from tests.registry.harness import BLOB, CONTENT, DIGEST, Broken, RegistryTestCase, SteppedBody, request

_EVERYWHERE = (
    "/v2/",
    "/v2/_catalog",
    "/v2/org/app/tags/list",
    "/v2/org/app/manifests/1",
    f"/v2/org/app/manifests/{DIGEST}",
    f"/v2/org/app/referrers/{DIGEST}",
    BLOB,
)
_OF_A_REPOSITORY = _EVERYWHERE[2:]


def _upstream(name: str, **more: object) -> Upstream:
    host = f"https://{name}"
    settings: dict[str, object] = {"names": frozenset({name}), **more}
    return Upstream(host, (host,), **settings)  # type: ignore[arg-type]


class RouteTests(RegistryTestCase):
    """What is asked of those behind."""

    def test_blob(self) -> None:
        """A blob is asked for with the client's own credential, and no more of what the client says."""
        reply = self.ask(BLOB + "?x=y", "Authorization: Bearer t", "Cookie: a=b")
        self.assertEqual((reply.status, reply.body), (200, CONTENT))
        (asked,) = self.services.asked
        self.assertEqual(asked.content.path(), BLOB)
        self.assertEqual(asked.credential, Credential("Bearer t"))
        self.assertEqual(asked.via, "1.1 contentcache-me")

    def test_tag(self) -> None:
        """A tag is asked for with each of the client's ``Accept``."""
        reply = self.ask("/v2/org/app/manifests/1", "Accept: a/b", "Accept: c/d")
        self.assertEqual(reply.status, 200)
        self.assertEqual(self.services.asked[0].accept, ("a/b", "c/d"))

    def test_own_account(self) -> None:
        """At a public upstream the client's credential ends here."""
        self.factory = self.build(_upstream("a.example", public=True))
        self.upstream_says()
        for target in _EVERYWHERE:
            self.ask(target, "Authorization: Basic secret")
        for asked in self.services.asked:
            subject = asked[1] if isinstance(asked, tuple) else asked.subject
            self.assertEqual(subject.credential, OWN)

    def test_root(self) -> None:
        """``/`` is there for whoever looks whether anybody is."""
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask("/", method=method).status, 200)
        self.assertEqual(self.services.asked, [])

    def test_bad_paths(self) -> None:
        """What is not in the grammar never gets anywhere."""
        for target, status, code in (
            ("/v2/a%2F..%2Fb/tags/list", 400, "NAME_INVALID"),
            ("/v2/../x/tags/list", 400, "NAME_INVALID"),
            ("/v2//a/tags/list", 400, "NAME_INVALID"),
            ("/v2/A/tags/list", 400, "NAME_INVALID"),
            (f"/v2/a/blobs/{str(DIGEST).upper()}", 400, "DIGEST_INVALID"),
            ("/v2/a/manifests/-x", 404, "MANIFEST_UNKNOWN"),
            ("/v2/_zot/ext/search", 404, "UNSUPPORTED"),
            ("/v2/a/_oci/ext/discover", 404, "UNSUPPORTED"),
            ("/v1/", 404, "UNSUPPORTED"),
            ("/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
        ):
            self.assert_refused(self.ask(target), status, code)
        self.assertEqual(self.services.asked, [])

    def test_query(self) -> None:
        """Only ``n``, ``last`` and ``artifactType`` pass on; what has two meanings is refused."""
        self.upstream_says()
        self.ask("/v2/org/app/tags/list?n=5&token=t&last=a%26b&x=1&artifactType=t/x")
        self.assertEqual(
            self.services.asked[0][1].path, "/v2/org/app/tags/list?n=5&last=a%26b&artifactType=t%2Fx"
        )
        self.services.asked.clear()
        for query in ("n=1&n=2", "n=x", "last=%FF", "last=%00", "ns=a&ns=b", "&".join(["a=1"] * 40)):
            self.assert_refused(self.ask(f"/v2/org/app/tags/list?{query}"), 400)
        self.assertEqual(self.services.asked, [])

    def test_prefix_of_the_api(self) -> None:
        """``http.prefix`` moves the API, and only that; ``/`` stays what it is."""
        self.factory = self.build(prefix="/cache/")
        self.assertEqual(self.ask("/cache" + BLOB).body, CONTENT)
        for target in ("/", "/cache/"):
            self.assertEqual(self.ask(target).status, 200)
        for target in (BLOB, "/v2/", "/cache", "/cachev2/"):
            self.assert_refused(self.ask(target), 404)

    def test_headers_of_the_operator(self) -> None:
        """``http.headers`` go out with answers and errors."""
        self.factory = self.build(extra={"X-Own": ("a", "b")})
        for target in ("/", BLOB, "/nowhere"):
            self.assertEqual(self.ask(target).headers.getRawHeaders("X-Own"), ["a", "b"])


class PolicyTests(RegistryTestCase):
    """What the operator keeps out."""

    def test_denied(self) -> None:
        """A repository that is denied, or not allowed, is refused on every route before anybody is asked."""
        for settings in ({"deny": ("org/*",)}, {"allow": ("library/*",)}):
            self.factory = self.build(_upstream("a.example", **settings))
            for target in _OF_A_REPOSITORY:
                self.assert_refused(self.ask(target), 403, "DENIED")
                self.assertEqual(self.ask(target, method="HEAD").status, 403)
        self.assertEqual(self.services.asked, [])

    def test_denied_behind_a_prefix(self) -> None:
        """The rule is about the name that the origin knows."""
        self.factory = self.build(
            _upstream("a.example"), _upstream("b.example", prefix="b.example", deny=("org/*",), public=True)
        )
        reply = self.ask("/v2/b.example/org/app/tags/list")
        self.assert_refused(reply, 403, "DENIED")
        self.assertEqual(self.services.asked, [])

    def test_loop(self) -> None:
        """A request that has been here is refused with 508, whatever stands around in ``Via``."""
        reply = self.ask(BLOB, "Via: 1.1 fred, 1.1 contentcache-me (x)", "Via: 1.0 other")
        self.assert_refused(reply, LoopDetected.status, LoopDetected.code)
        self.assertEqual(self.services.asked, [])

    def test_caches_before_us(self) -> None:
        """
        A request that has a ``Via`` is answered with one: our name and those behind us, with every status;
        others are not.
        """
        names = self.registries[0].behind
        for target, status in ((BLOB, 200), ("/v2/", 200)):
            reply = self.ask(target, "Via: 1.1 contentcache-a")
            self.assertEqual((reply.status, reply.header("Via")), (status, "1.1 contentcache-me"))
            self.assertIsNone(self.ask(target).header("Via"))
        names.learn("https://one", ["1.1 contentcache-b, 1.1 fred, 1.1 contentcache-c"])
        reply = self.ask(BLOB, "Via: 1.1 contentcache-a")
        self.assertEqual(reply.header("Via"), "1.1 contentcache-me, 1.1 contentcache-b, 1.1 contentcache-c")
        reply = self.ask(BLOB, "Via: 1.1 contentcache-me")
        self.assertEqual((reply.status, reply.header("Via")), (508, "1.1 contentcache-me"))

    def test_long_via(self) -> None:
        """More than eight names, or one that is too long, are refused before anything is asked."""
        for via in (", ".join(f"1.1 a{number}" for number in range(9)), "1.1 " + "x" * 256):
            self.assert_refused(self.ask(BLOB, f"Via: {via}"), 400, "UNSUPPORTED")
        self.assertEqual(self.services.asked, [])
        eight = ", ".join(f"1.1 a{number}" for number in range(8))
        self.assertEqual(self.ask(BLOB, f"Via: {eight} (comment)").status, 200)
        self.assertEqual(self.services.asked[-1].via, f"{eight}, 1.1 contentcache-me")

    def test_depth(self) -> None:
        """More than two caches in a row are counted, and served; ``Via`` grows by us."""
        self.assertEqual(self.ask(BLOB, "Via: 1.1 contentcache-a").status, 200)
        self.assertNotIn(b"contentcache_deep_chains_total 1.0", self.meter.text())
        reply = self.ask(BLOB, "Via: 1.1 contentcache-a, 1.1 contentcache-b")
        self.assertEqual(reply.status, 200)
        self.assertIn(b"contentcache_deep_chains_total 1.0", self.meter.text())
        self.assertEqual(
            self.services.asked[-1].via, "1.1 contentcache-a, 1.1 contentcache-b, 1.1 contentcache-me"
        )


class PassingTests(RegistryTestCase):
    """What only the origin answers."""

    def test_ping(self) -> None:
        """The origin's answer to ``/v2/``, a challenge with its header and its body."""
        self.assertEqual(self.ask("/v2/").body, b"{}")
        challenge = 'Bearer realm="https://auth.example/token",service="s"'
        self.services.pinged = Pinged(401, {"WWW-Authenticate": challenge}, b'{"errors":[]}')
        reply = self.ask("/v2/")
        self.assertEqual((reply.status, reply.body), (401, b'{"errors":[]}'))
        self.assertEqual(reply.header("WWW-Authenticate"), challenge)

    def test_several_challenges(self) -> None:
        """Several challenges come in as many lines as the origin sent, in its order: clients read one of a line."""
        lines = ['Basic realm="Registry"', 'Bearer realm="https://auth.example/token",service="s"']
        refusal = OriginRefused(401, {"WWW-Authenticate": tuple(lines)}, b'{"errors":[]}')
        self.services.pinged = Pinged(401, refusal.headers, refusal.body)
        self.services.content = self.services.answer = refusal
        for method in ("GET", "HEAD"):
            for target in _EVERYWHERE:
                reply = self.ask(target, method=method)
                self.assertEqual((target, reply.status), (target, 401))
                self.assertEqual(reply.headers.getRawHeaders("WWW-Authenticate"), lines)

    def test_missing_tag(self) -> None:
        """A missing tag says so in the registry's words, though the origin's body was not asked for."""
        self.services.content = OriginRefused(404, {"Content-Type": "text/html"}, code="MANIFEST_UNKNOWN")
        self.assert_refused(self.ask("/v2/org/app/manifests/9"), 404, "MANIFEST_UNKNOWN")

    def test_not_ascii(self) -> None:
        """A header's bytes that are no ASCII leave as they came."""
        self.upstream_says(headers={"Warning": "x"})
        self.services.answer._response.headers.setRawHeaders(b"Warning", [b"299 - caf\xe9 \xff"])
        reply = self.ask("/v2/org/app/tags/list")
        self.assertEqual(reply.headers.getRawHeaders(b"Warning"), [b"299 - caf\xe9 \xff"])

    def test_headers(self) -> None:
        """Upstream's headers pass by a list of names."""
        self.upstream_says(
            headers={
                "Content-Type": "application/json",
                "OCI-Subject": str(DIGEST),
                "RateLimit-Remaining": "5",
                "Set-Cookie": "a=b",
                "Alt-Svc": "h3",
                "Strict-Transport-Security": "max-age=1",
                "Server": "x",
                "Connection": "keep-alive",
                "X-Anything": "x",
            }
        )
        reply = self.ask("/v2/org/app/tags/list")
        self.assertEqual(reply.body, b"{}")
        self.assertEqual(
            {name.decode().lower() for name, _ in reply.headers.getAllRawHeaders()},
            {
                "content-type",
                "date",
                "oci-subject",
                "ratelimit-remaining",
                "cache-status",
                "docker-distribution-api-version",
                "x-content-type-options",
                "x-request-id",
                "transfer-encoding",
            },
        )

    def test_length(self) -> None:
        """A length passes, for ``HEAD`` too."""
        self.upstream_says(headers={"Content-Length": "2"})
        self.assertEqual(self.ask("/v2/org/app/tags/list").header("Content-Length"), "2")
        self.upstream_says(headers={"Content-Length": "2"}, pieces=())
        reply = self.ask("/v2/org/app/tags/list", method="HEAD")
        self.assertEqual((reply.header("Content-Length"), reply.body), ("2", b""))
        self.assertEqual(self.services.asked[-1][1].method, "HEAD")
        self.upstream_says(headers={"Content-Length": "0"}, pieces=())
        for target in ("/v2/org/app/tags/list", "/v2/_catalog", f"/v2/org/app/referrers/{DIGEST}"):
            reply = self.ask(target, method="HEAD")
            self.assertEqual((reply.status, reply.header("Content-Length")), (200, None), "no list is empty")

    def test_link(self) -> None:
        """The next page is here, by the way that led to this one."""
        cases = (
            ("https://a.example/v2/org/app/tags/list?n=1&last=b", "", "/v2/org/app/tags/list?n=1&last=b"),
            ("//evil.example/v2/org/app/tags/list", "", "/v2/org/app/tags/list"),
            ("/v2/org/app/tags/list?n=1", "?ns=a.example", "/v2/org/app/tags/list?n=1&ns=a.example"),
            ("/v2/org/app/tags/list", "?ns=A.Example", "/v2/org/app/tags/list?ns=A.Example"),
        )
        for link, query, expected in cases:
            self.factory = self.build(_upstream("a.example"))
            self.upstream_says(headers={"Link": f'<{link}>; rel="next"'})
            reply = self.ask(f"/v2/org/app/tags/list{query}")
            self.assertEqual(reply.header("Link"), f'<{expected}>; rel="next"')

    def test_opaque_link(self) -> None:
        """
        The next page of a registry with parameters of its own is asked for with just those, and what a client
        makes up is not.
        """
        self.factory = self.build(_upstream("a.example"))
        self.upstream_says(headers={"Link": '</v2/org/app/tags/list?next_page=tok%3D&n=1>; rel="next"'})
        reply = self.ask("/v2/org/app/tags/list?next_page=mine")
        link = reply.header("Link")
        assert link is not None
        self.factory = self.build(_upstream("a.example"))
        self.upstream_says()
        self.ask(link.partition(">")[0][1:])
        paths = [asked.path for _, asked in self.services.asked]
        self.assertEqual(paths, ["/v2/org/app/tags/list", "/v2/org/app/tags/list?next_page=tok%3D&n=1"])

    def test_link_behind_prefixes(self) -> None:
        """Both prefixes, the API's and the origin's, are on the next page too."""
        self.factory = self.build(
            _upstream("a.example"), _upstream("b.example", prefix="b.example", public=True), prefix="/cache/"
        )
        self.upstream_says(headers={"Link": '</v2/org/app/tags/list?last=x>; rel="next"'})
        reply = self.ask("/cache/v2/b.example/org/app/tags/list?n=1")
        self.assertEqual(self.services.asked[0][1].path, "/v2/org/app/tags/list?n=1")
        self.assertEqual(reply.header("Link"), '</cache/v2/b.example/org/app/tags/list?last=x>; rel="next"')

    def test_no_catalog(self) -> None:
        """
        Where the origin has no catalog it is empty, with what the origin tells besides its answer (warnings,
        rate limits); a refusal is a refusal.
        """
        told: Headers = {"Warning": ("299 - one", "299 - two"), "RateLimit-Remaining": "9"}
        for status in (404, 405, 501):
            for method in ("GET", "HEAD"):
                meant = {"Content-Type": "text/html", "Link": "</a>", "WWW-Authenticate": "Basic"}
                self.services.answer = OriginRefused(status, {**told, **meant}, b"<html>")
                reply = self.ask("/v2/_catalog", method=method)
                body = b'{"repositories":[]}' if method == "GET" else b""
                self.assertEqual((reply.status, reply.body), (200, body))
                self.assertEqual(reply.header("Content-Type"), "application/json")
                self.assertEqual(reply.headers.getRawHeaders("Warning"), ["299 - one", "299 - two"])
                self.assertEqual(reply.header("RateLimit-Remaining"), "9")
                self.assertFalse(
                    reply.headers.hasHeader("Link") or reply.headers.hasHeader("WWW-Authenticate")
                )
                self.assertIn(f"fwd-status={status}", reply.header("Cache-Status") or "")
        for status in (401, 403, 429):
            self.services.answer = OriginRefused(status, {"WWW-Authenticate": "Basic"}, b"{}")
            reply = self.ask("/v2/_catalog")
            self.assertEqual((reply.status, reply.header("WWW-Authenticate")), (status, "Basic"))

    def test_breaks_off(self) -> None:
        """Where upstream breaks off, the answer ends short."""
        self.upstream_says(pieces=(b"abc",), end=Broken("reset"))
        client = self.client().send(request("/v2/_catalog"))
        (reply,) = client.replies()
        self.assertEqual((reply.status, reply.body, reply.whole), (200, b"abc", False))
        self.assertTrue(client.ended)

    def test_back_pressure(self) -> None:
        """Upstream waits for a client that is slow; the rest follows in order."""
        broadcast = self.upstream_says(pieces=(), end=None)
        client = self.client().send(request("/v2/_catalog"))
        client.channel.pauseProducing()
        for _ in range(5):
            broadcast.protocol.dataReceived(b"x" * 100_000)
        self.assertTrue(broadcast.paused)
        client.channel.resumeProducing()
        self.assertFalse(broadcast.paused)
        client.leave()
        self.assertTrue(broadcast.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ErrorTests(RegistryTestCase):
    """What goes wrong."""

    def test_errors(self) -> None:
        """Each error has its status, its code and its headers, on every route; none leaves a trace in the log."""
        after = {"Retry-After": "7"}
        for error in (
            UpstreamUnavailable("no"),
            UpstreamTimeout("no"),
            UpstreamBroken("no"),
            ContentWrong("no"),
            Overloaded("no", headers=after),
        ):
            self.services.content = self.services.answer = self.services.pinged = error
            for target in _EVERYWHERE:
                reply = self.ask(target)
                self.assert_refused(reply, error.status, error.code)
                self.assertEqual(reply.header("Retry-After"), error.headers.get("Retry-After"))
                self.assertIn("contentcache; ", reply.header("Cache-Status") or "")
                head = self.ask(target, method="HEAD")
                self.assertEqual((head.status, head.body), (error.status, b""))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_refusals_of_the_origin(self) -> None:
        """The origin's own refusals pass as they are, with a body of ours where they have none."""
        for status, code in (
            (401, "UNAUTHORIZED"),
            (403, "DENIED"),
            (404, "NOT_FOUND"),
            (429, "TOOMANYREQUESTS"),
        ):
            headers = {"WWW-Authenticate": "Basic", "Retry-After": "3", "Content-Type": "text/plain"}
            self.services.content = OriginRefused(status, headers, b"its own words")
            reply = self.ask(BLOB)
            self.assertEqual((reply.status, reply.body), (status, b"its own words"))
            self.assertEqual(reply.header("Content-Type"), "text/plain")
            self.services.content = OriginRefused(status, headers)
            reply = self.ask(BLOB)
            self.assert_refused(reply, status, code)
            self.assertEqual((reply.header("WWW-Authenticate"), reply.header("Retry-After")), ("Basic", "3"))

    def test_defect(self) -> None:
        """A defect of ours is a 500 with an entry in the log, and the connection goes on."""
        self.services.content = self.services.answer = self.services.pinged = Broken("a defect")
        client = self.client()
        for target in _EVERYWHERE:
            self.assert_refused(client.ask(target), 500, "UNKNOWN")
        self.assertEqual(len(self.flushLoggedErrors(Broken)), len(_EVERYWHERE))

    def test_defect_in_the_middle(self) -> None:
        """One in the middle of a body ends it short."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        body.give(10)
        body.fail(Broken("a defect"))
        (reply,) = client.replies()
        self.assertEqual((reply.whole, client.ended, body.closed), (False, True, True))
        self.assertEqual(len(self.flushLoggedErrors(Broken)), 1)

    def test_cancelled_by_others(self) -> None:
        """Something cancelled that was not ours to cancel leaves no client waiting."""
        self.services.content = CancelledError()
        self.assert_refused(self.ask(BLOB), 500, "UNKNOWN")
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_defect_in_the_error(self) -> None:
        """Where even the error cannot be sent the connection ends."""
        self.services.content = OriginRefused(404, {"not a name": "x"}, b"x")
        client = self.client().send(request(BLOB))
        self.assertTrue(client.ended)
        self.assertTrue(self.flushLoggedErrors())

    def test_client_leaves_while_it_fails(self) -> None:
        """An error for a client that has left is nobody's business."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        client.leave()
        self.assertTrue(body.closed)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_leaves_and_that_is_mistaken(self) -> None:
        """A room behind that makes an error of a client's leaving finds nobody to tell."""
        self.services.waiting = Deferred(lambda waiting: waiting.errback(UpstreamTimeout("it took too long")))
        client = self.client().send(request(BLOB))
        client.leave()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(client.transport.value(), b"")


class LineTests(RegistryTestCase):
    """The access log of the API's answers."""

    def test_lines(self) -> None:
        """A line for each: status, bytes, cache status, origin."""
        self.ask(BLOB)
        self.ask("/nowhere")
        self.services.content = OriginRefused(404, {}, b"xyz")
        self.ask(BLOB)
        self.assertEqual(
            [(line.status, line.sent, line.cache, line.upstream) for line in self.lines],
            [
                (200, len(CONTENT), "hit", "https://a.example"),
                (404, self.lines[1].sent, "detail=refused", "-"),
                (404, 3, "fwd=request; fwd-status=404", "https://a.example"),
            ],
        )
