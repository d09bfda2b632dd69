"""Tests for :mod:`contentcache.gateway.admin.api`."""

from __future__ import annotations

import json
from typing import Any, NoReturn
from uuid import UUID

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher

from contentcache.gateway.directory import Cache
from tests.gateway.admin.admin_case import JSON, AdminSiteTestCase, Browser, basic, token

NEAR = {"name": "near", "host": "https://near.example"}
ID = str(UUID(int=1))


class CachesTests(AdminSiteTestCase):
    """The caches."""

    def test_add_show_list_remove(self) -> None:
        """A cache is added, shown, listed and removed, with the statuses and bodies of the original."""
        added = self.ask(
            "POST", "/content_caches", value={"name": "near", "host": "https://Near.example:443/"}
        )
        self.assertEqual((added.status, json.loads(added.body)), (201, {"id": ID, **NEAR}))
        shown = self.ask("GET", f"/content_caches/{ID.upper()}", who="bob")
        self.assertEqual((shown.status, json.loads(shown.body)), (200, {"id": ID, **NEAR}))
        listed = self.ask("GET", "/content_caches", who="bob")
        self.assertEqual((listed.status, json.loads(listed.body)), (200, [{"id": ID, **NEAR}]))
        for _ in range(2):
            removed = self.ask("DELETE", f"/content_caches/{ID}")
            self.assertEqual((removed.status, removed.body), (204, b""))
            self.assertIsNone(removed.header("Content-Type"))
        self.assertEqual(json.loads(self.ask("GET", "/content_caches").body), [])

    def test_none(self) -> None:
        """An unknown or malformed id is 404 to show, and no error to remove."""
        for text in (ID, "x", "1", "%2e%2e", ID + "0"):
            self.assert_error(self.ask("GET", f"/content_caches/{text}"), 404, "NO_SUCH_CONTENT_CACHE")
            self.assertEqual(self.ask("DELETE", f"/content_caches/{text}").status, 204)

    def test_details(self) -> None:
        """Invalid names and hosts are refused, each with a message that repeats no password."""
        for name in ("", " a", "a ", "a/b", "<b>", "a\n", "a" * 65, "ä", 7, None, ["a"]):
            reply = self.ask("POST", "/content_caches", value={**NEAR, "name": name})
            self.assert_error(reply, 400, "INVALID_CONTENT_CACHE")
        hosts: tuple[object, ...] = (
            "",
            "near.example",
            "ftp://near.example",
            "https://",
            "https://near.example/path",
            "https://near.example?x",
            "https://near.example#x",
            "https://me:s3cret@near.example",
            "https://near.example:0",
            "https://near.example:65536",
            "https://near example",
            "https://near.example\r\nX: y",
            "javascript://near.example",
            "https://" + "a." * 200 + "example",
            5,
            {},
        )
        for host in hosts:
            reply = self.ask("POST", "/content_caches", value={**NEAR, "host": host})
            self.assert_error(reply, 400, "INVALID_CONTENT_CACHE")
            self.assertNotIn(b"s3cret", reply.body)
        values: tuple[object, ...] = (
            {},
            [],
            "x",
            1,
            {"name": "near"},
            {**NEAR, "id": ID},
            {**NEAR, "Host": "x"},
        )
        for value in values:
            reply = self.ask("POST", "/content_caches", value=value)
            self.assert_error(reply, 400, "INVALID_CONTENT_CACHE")
        self.assertEqual(self.directory.caches(), [])

    def test_taken(self) -> None:
        """Two caches cannot have one name, whatever its case."""
        self.assertEqual(self.ask("POST", "/content_caches", value=NEAR).status, 201)
        again = self.ask("POST", "/content_caches", value={**NEAR, "name": "NEAR"})
        self.assert_error(again, 400, "INVALID_CONTENT_CACHE")

    def test_alive_at_once(self) -> None:
        """A cache that was just added is probed at once, and not in the next round."""
        self.ask("POST", "/content_caches", value=NEAR)
        self.assertTrue(self.liveness.is_alive(UUID(ID)))


class HealthTests(AdminSiteTestCase):
    """Whether a cache is healthy, and why not."""

    def test_health(self) -> None:
        """
        Unknown before it was asked, then healthy or unhealthy with since when, when it was last asked, and
        why.
        """
        target = f"/content_caches/{UUID(int=1)}/health"
        self.assert_error(self.ask("GET", target), 404, "NO_SUCH_CONTENT_CACHE")
        self.directory.add(Cache(UUID(int=1), "near", "https://near.example"))
        unknown = {"state": "unknown", "since": None, "checked": None, "reason": None}
        self.assertEqual(json.loads(self.ask("GET", target, "bob").body), unknown)
        self.liveness.start()
        self.clock.advance(7)
        self.probe.dead.add("https://near.example")
        self.clock.advance(3)
        self.assertEqual(
            json.loads(self.ask("GET", target, "bob").body),
            {
                "state": "unhealthy",
                "since": "1970-01-01T00:00:10Z",
                "checked": "1970-01-01T00:00:10Z",
                "reason": "no answer within 5 s",
            },
        )
        self.probe.dead.clear()
        self.clock.advance(10)
        self.clock.advance(10)
        found = json.loads(self.ask("GET", target, "bob").body)
        self.assertEqual((found["state"], found["reason"]), ("healthy", None))
        self.assert_error(self.ask("GET", target, None), 401, "NOT_AUTHENTICATED")
        self.liveness.stop()


class SettingsTests(AdminSiteTestCase):
    """The choices of accounts."""

    def setUp(self) -> None:
        super().setUp()
        self.ask("POST", "/content_caches", value=NEAR)

    def test_choose(self) -> None:
        """
        The answer's key has a capital letter, the request's a small one; empty and null unset, and what is
        left out stays.
        """
        place = "/accounts/bob/settings"
        self.assertEqual(json.loads(self.ask("GET", place, "bob").body), {"ContentCacheUUID": ""})
        for wanted, expected in ((ID, ID), ("", ""), (ID.upper(), ID), (None, "")):
            reply = self.ask("PATCH", place, "bob", {"contentCacheUUID": wanted})
            self.assertEqual((reply.status, json.loads(reply.body)), (200, {"ContentCacheUUID": expected}))
            self.assertEqual(json.loads(self.ask("GET", place, "bob").body), {"ContentCacheUUID": expected})
        self.ask("PATCH", place, "bob", {"contentCacheUUID": ID})
        self.assertEqual(json.loads(self.ask("PATCH", place, "bob", {}).body), {"ContentCacheUUID": ID})

    def test_invalid(self) -> None:
        """A malformed or unknown id is refused and changes nothing."""
        place = "/accounts/bob/settings"
        self.ask("PATCH", place, "bob", {"contentCacheUUID": ID})
        bodies: tuple[object, ...] = (
            {"contentCacheUUID": str(UUID(int=9))},
            {"contentCacheUUID": "near"},
            {"contentCacheUUID": 0},
            {"contentCacheUUID": False},
            {"contentCacheUUID": [ID]},
            {"ContentCacheUUID": ID},
            {"other": 1},
            [],
            b"",
            b"{",
            b'{"contentCacheUUID": "", "contentCacheUUID": ""}',
            b'{"contentCacheUUID": NaN}',
            b"[" * 50_000,
            b'{"contentCacheUUID": "\\ud800"}',
            b'{"\xff": 1}',
        )
        for body in bodies:
            self.assert_error(self.ask("PATCH", place, "bob", body), 400, "INVALID_USER_SETTINGS")
        self.assertEqual(self.directory.choice("bob"), UUID(ID))

    def test_other_accounts(self) -> None:
        """
        Administrators see and change the settings of accounts that were here; others only their own, and do
        not learn who was here.
        """
        self.assert_error(self.ask("GET", "/accounts/bob/settings"), 404, "NO_SUCH_USER")
        self.assert_error(
            self.ask("PATCH", "/accounts/bob/settings", value={"contentCacheUUID": ID}), 404, "NO_SUCH_USER"
        )
        self.assertEqual(self.ask("GET", "/content_caches", "bob").status, 200)
        self.assertEqual(self.ask("GET", "/accounts/bob/settings").status, 200)
        for name in ("alice", "nobody"):
            self.assert_error(self.ask("GET", f"/accounts/{name}/settings", "bob"), 403, "NOT_AUTHORIZED")
            reply = self.ask("PATCH", f"/accounts/{name}/settings", "bob", {"contentCacheUUID": ID})
            self.assert_error(reply, 403, "NOT_AUTHORIZED")

    def test_slash(self) -> None:
        """An account whose name holds a slash has settings too."""
        self.assertEqual(self.ask("GET", "/accounts/org%2Frobot/settings", "org/robot").status, 200)

    def test_removed(self) -> None:
        """An account that had chosen a removed cache has chosen nothing."""
        self.ask("PATCH", "/accounts/bob/settings", "bob", {"contentCacheUUID": ID})
        self.ask("DELETE", f"/content_caches/{ID}")
        reply = self.ask("GET", "/accounts/bob/settings", "bob")
        self.assertEqual(json.loads(reply.body), {"ContentCacheUUID": ""})


class ManyErrorsTests(AdminSiteTestCase):
    """Responses that every operation may have."""

    def test_not_authenticated(self) -> None:
        """
        Without credentials, or with wrong ones, nothing is told; browsers' scripts get no challenge that
        would open a window.
        """
        headers = (None, basic("bob", "wrong"), "Basic !", "Bearer", "Bearer x", "Digest a=b", "Basic Ym9i")
        for value in headers:
            given = {} if value is None else {"Authorization": value}
            reply = self.ask("GET", "/content_caches", None, **given)
            self.assert_error(reply, 401, "NOT_AUTHENTICATED")
            self.assertTrue((reply.header("WWW-Authenticate") or "").startswith("Basic realm="))
        script = self.ask("GET", "/content_caches", None, Sec_Fetch_Dest="empty")
        self.assertTrue((script.header("WWW-Authenticate") or "").startswith("Bearer "))

    def test_token(self) -> None:
        """A token that the registry accepts is its subject; an anonymous one is refused."""
        headers = {"Authorization": f"Bearer {token('bob')}"}
        self.assertEqual(self.ask("GET", "/accounts/bob/settings", None, **headers).status, 200)
        for wrong in (token("", "good"), token("bob", "forged")):
            reply = self.ask("GET", "/content_caches", None, Authorization=f"Bearer {wrong}")
            self.assert_error(reply, 401, "NOT_AUTHENTICATED")

    def test_not_authorized(self) -> None:
        """Only administrators add and remove caches; that is said before a body is read."""
        self.assert_error(self.ask("POST", "/content_caches", "bob", b"{"), 403, "NOT_AUTHORIZED")
        self.assert_error(self.ask("DELETE", f"/content_caches/{ID}", "bob"), 403, "NOT_AUTHORIZED")

    def test_not_allowed(self) -> None:
        """A method that a path does not have; Allow says which it has."""
        for method, target, allowed in (
            ("PUT", "/content_caches", "GET, HEAD, POST"),
            ("POST", f"/content_caches/{ID}", "DELETE, GET, HEAD"),
            ("DELETE", "/accounts/bob/settings", "GET, HEAD, PATCH"),
            ("OPTIONS", "/openapi.json", "GET, HEAD"),
            ("FOO", "/content_caches", "GET, HEAD, POST"),
        ):
            reply = self.ask(method, target)
            self.assert_error(reply, 405, "NOT_ALLOWED")
            self.assertEqual(reply.header("Allow"), allowed)

    def test_not_acceptable(self) -> None:
        """Responses are JSON, whatever a client prefers."""
        for accept in ("text/html", "application/json;q=0", "*/*;q=0", "application/xml, text/*"):
            reply = self.ask("GET", "/content_caches", Accept=accept)
            self.assert_error(reply, 406, "NOT_ACCEPTABLE")
        for accept in ("*/*", "application/*", "text/html, */*;q=0.1", "Application/JSON; charset=utf-8"):
            self.assertEqual(self.ask("GET", "/content_caches", Accept=accept).status, 200)

    def test_media_type(self) -> None:
        """Bodies are JSON in UTF-8."""
        for kind in (
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin1",
        ):
            reply = self.ask("POST", "/content_caches", value=NEAR, Content_Type=kind)
            self.assert_error(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
        good = self.ask("POST", "/content_caches", value=NEAR, Content_Type=f'{JSON}; charset="UTF-8"')
        self.assertEqual(good.status, 201)

    def test_too_large(self) -> None:
        """A body of more than 64 KiB is refused."""
        reply = self.ask("POST", "/content_caches", value=b" " * (64 << 10) + b"{}")
        self.assert_error(reply, 413, "SIZE_INVALID")

    def test_paths(self) -> None:
        """Unknown paths are 404 in the same form; nothing is redirected."""
        for target in ("", "/", "/content_caches/", "//content_caches", f"/content_caches/{ID}/", "/x"):
            self.assert_error(self.ask("GET", target), 404, "NOT_FOUND")
        self.assert_error(self.ask("GET", "/accounts/%ff/settings"), 400, "INVALID_REQUEST")

    def test_head(self) -> None:
        """``HEAD`` has the head of ``GET``, without the body."""
        head, get = (self.ask(method, "/content_caches") for method in ("HEAD", "GET"))
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.header("Content-Length"), get.header("Content-Length"))

    def test_registry_away(self) -> None:
        """While the registry does not answer, requests are 503."""
        self.registry.away = True
        reply = self.ask("GET", "/content_caches")
        self.assert_error(reply, 503, "UNAVAILABLE")
        self.assertEqual(reply.header("Retry-After"), "5")

    def test_database_away(self) -> None:
        """A database that fails is 503, and leaves no traceback."""

        def fail() -> None:
            raise OSError(28, "no space left")

        self.patch(self.directory, "caches", fail)
        self.assert_error(self.ask("GET", "/content_caches"), 503, "UNAVAILABLE")

    def test_defect(self) -> None:
        """A defect is 500 in the same form, with nothing of its cause, which is in the log."""

        def fail() -> None:
            raise ZeroDivisionError("secret")

        self.patch(self.directory, "caches", fail)
        reply = self.ask("GET", "/content_caches")
        self.assert_error(reply, 500, "UNKNOWN")
        self.assertNotIn(b"secret", reply.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_guards(self) -> None:
        """No response may be cached, framed or sniffed."""
        for reply in (self.ask("GET", "/content_caches"), self.ask("GET", "/x"), self.ask("GET", "", None)):
            self.assertEqual(reply.header("X-Content-Type-Options"), "nosniff")
            self.assertEqual(reply.header("Cache-Control"), "no-store")
            self.assertIn("frame-ancestors 'none'", reply.header("Content-Security-Policy") or "")


class SessionTests(AdminSiteTestCase):
    """Requests of the API page's script, in the session of its reader."""

    def test_one_sign_in(self) -> None:
        """Who is signed in to the pages need not authorize again, and may do what they may do, no more."""
        for name, status in (("alice", 201), ("bob", 403)):
            browser = Browser(self)
            browser.sign_in(name)
            browser.get("/api")
            self.assertEqual(browser.call("GET", "/content_caches", X_CSRF_Token=browser.csrf).status, 200)
            self.assertEqual(
                browser.call("POST", "/content_caches", X_CSRF_Token=browser.csrf).status, status
            )
            own = browser.call("GET", f"/accounts/{name}/settings", X_CSRF_Token=browser.csrf)
            self.assertEqual(own.status, 200)
        others = browser.call("GET", "/accounts/alice/settings", X_CSRF_Token=browser.csrf)
        self.assertEqual(others.status, 403)

    def test_cookie_alone(self) -> None:
        """
        A page of another site cannot use the session: its cookie alone is worth nothing, nor with the token of
        another session, nor for a request that another site has sent.
        """
        browser, other = Browser(self), Browser(self)
        browser.sign_in("alice")
        other.sign_in("bob")
        browser.get("/api")
        other.get("/api")
        for headers in (
            {},
            {"X_CSRF_Token": ""},
            {"X_CSRF_Token": other.csrf},
            {"X_CSRF_Token": browser.csrf, "Sec_Fetch_Site": "cross-site"},
            {"X_CSRF_Token": browser.csrf, "Sec_Fetch_Site": "same-site"},
            {"X_CSRF_Token": browser.csrf, "Sec_Fetch_Site": "none"},
        ):
            for method in ("GET", "POST"):
                reply = browser.call(method, "/content_caches", **headers)
                self.assert_error(reply, 401, "NOT_AUTHENTICATED")
        self.assertEqual(list(self.directory.caches()), [])

    def test_ends(self) -> None:
        """After signing out the token opens nothing, and neither does it once the session has ended."""
        browser = Browser(self)
        browser.sign_in("alice")
        browser.get("/api")
        token, kept = browser.csrf, dict(browser.cookies)
        self.clock.advance(901)
        self.assertEqual(browser.call("GET", "/content_caches", X_CSRF_Token=token).status, 401)
        browser.sign_in("alice")
        browser.get("/api")
        token, kept = browser.csrf, dict(browser.cookies)
        browser.post("/settings/sign-out")
        browser.cookies = kept
        self.assertEqual(browser.call("GET", "/content_caches", X_CSRF_Token=token).status, 401)

    def test_other_account(self) -> None:
        """Credentials in the request count, not the session: these are wrong."""
        browser = Browser(self)
        browser.sign_in("alice")
        browser.get("/api")
        reply = browser.call(
            "GET", "/content_caches", X_CSRF_Token=browser.csrf, Authorization=basic("bob", "wrong")
        )
        self.assert_error(reply, 401, "NOT_AUTHENTICATED")


class WhereToTests(AdminSiteTestCase):
    """Which cache a client is sent to."""

    def test_cache_for(self) -> None:
        """The choice, else the network's default, else none; never a dead one."""
        self.ask("POST", "/content_caches", value=NEAR)
        self.ask("POST", "/content_caches", value={"name": "far", "host": "https://far.example"})
        self.directory.choose("bob", UUID(int=2))

        def place(account: str | None, address: str) -> str | None:
            found = self.successResultOf(
                Deferred.fromCoroutine(self.cache_directory.cache_for(account, address))
            )
            return None if found is None else found.host

        self.assertEqual(place("bob", "192.0.2.1"), "https://far.example")
        self.assertEqual(place("carol", "192.0.2.1"), NEAR["host"])
        self.assertEqual(place(None, "::ffff:192.0.2.1"), NEAR["host"])
        self.assertIsNone(place("carol", "198.51.100.1"))
        self.probe.dead.add("https://far.example")
        self.liveness.start()
        self.assertIsNone(place("bob", "192.0.2.1"))
        self.assertEqual(place("carol", "192.0.2.1"), NEAR["host"])

    def test_database_fails(self) -> None:
        """
        While the database cannot be read, what was last read counts; who was never asked for is sent nowhere,
        and the log says once that it fails.
        """
        self.ask("POST", "/content_caches", value=NEAR)
        self.ask("POST", "/content_caches", value={"name": "far", "host": "https://far.example"})
        self.directory.choose("bob", UUID(int=2))

        def place(account: str | None) -> str | None:
            asking = Deferred.fromCoroutine(self.cache_directory.cache_for(account, "192.0.2.1"))
            found = self.successResultOf(asking)
            return None if found is None else found.host

        known = {account: place(account) for account in ("bob", "carol", None)}
        self.assertEqual(known["bob"], "https://far.example")

        def fail(*_args: object) -> NoReturn:
            raise OSError(28, "no space left on device")

        logged: list[LogEvent] = []
        observer: Any = logged.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for name in ("caches", "cache", "choice"):
            self.patch(self.directory, name, fail)
        for _ in range(3):
            self.assertEqual({account: place(account) for account in known}, known)
            self.assertIsNone(place("dave"))
        formats = [str(event.get("log_format")) for event in logged]
        self.assertEqual(formats.count("gateway database failed"), 1)
