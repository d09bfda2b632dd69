"""Tests for :mod:`contentcache.gateway.admin.pages`, page_frame and sessions, without a browser."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.admin.sessions import Sessions
from contentcache.gateway.authentication import User
from contentcache.gateway.directory import Cache
from tests.gateway.admin.admin_case import ORIGIN, AdminSiteTestCase, Browser, Noise
from tests.gateway.directory_suite import cache

ONE = UUID(int=1)


class SignInTests(AdminSiteTestCase):
    """Sessions of browsers."""

    def test_cookie(self) -> None:
        """
        The cookie of a session is for this host and TLS alone, out of reach of scripts and other sites; each
        sign-in has a new id, and the old one is worth nothing.
        """
        browser = Browser(self)
        reply = browser.sign_in("bob")
        self.assertEqual((reply.status, reply.header("Location")), (303, "/settings"))
        (line,) = reply.headers.getRawHeaders("Set-Cookie") or ()
        name, _, rest = line.partition("=")
        self.assertEqual(name, "__Host-session")
        self.assertEqual(rest.partition("; ")[2], "Path=/; HttpOnly; SameSite=Strict; Secure")
        first = browser.cookies["__Host-session"]
        browser.get("/settings")
        browser.post("/settings/sign-in", username="bob", password="builder")
        self.assertNotEqual(browser.cookies["__Host-session"], first)
        browser.cookies["__Host-session"] = first
        self.assertIn(b"<h1>Sign in</h1>", browser.get("/settings").body)

    def test_refused(self) -> None:
        """
        A wrong password is told on the page, with no challenge that would open a window, and is nowhere in
        it.
        """
        browser = Browser(self)
        reply = browser.sign_in("bob", "pass<word")
        self.assertEqual(reply.status, 403)
        self.assertIsNone(reply.header("WWW-Authenticate"))
        self.assertIn(b'role="alert"', reply.body)
        self.assertNotIn(b"pass", reply.body.replace(b"password", b"").replace(b"Password", b""))
        self.assertEqual(len(browser.cookies), 1)

    def test_too_many(self) -> None:
        """Guessing is throttled, and the page says for how long."""
        browser = Browser(self)
        for count in range(10):
            browser.sign_in("bob", f"wrong {count}")
        reply = browser.sign_in("bob")
        self.assertEqual((reply.status, reply.header("Retry-After")), (429, "15"))

    def test_sign_out(self) -> None:
        """After signing out the id is invalid."""
        browser = Browser(self)
        browser.sign_in("bob")
        kept = dict(browser.cookies)
        browser.get("/settings")
        self.assertEqual(browser.post("/settings/sign-out").status, 303)
        self.assertNotIn("__Host-session", browser.cookies)
        browser.cookies = kept
        self.assertIn(b"<h1>Sign in</h1>", browser.get("/settings").body)

    def test_ends(self) -> None:
        """
        A session ends a quarter of an hour after the last click, which the script's looking is not, and after
        an hour in any case.
        """
        browser = Browser(self)
        browser.sign_in("bob")
        for _ in range(8):
            self.clock.advance(100)
            self.assertIn(b"<h1>Settings</h1>", browser.get("/settings", Sec_Fetch_Dest="empty").body)
        self.clock.advance(100)
        self.assertIn(b"<h1>Sign in</h1>", browser.get("/settings").body)
        browser.sign_in("bob")
        for _ in range(5):
            self.clock.advance(600)
            self.assertIn(b"<h1>Settings</h1>", browser.get("/settings").body)
        self.clock.advance(600)
        self.assertIn(b"<h1>Sign in</h1>", browser.get("/settings").body)

    def test_where_to(self) -> None:
        """After signing in the browser is redirected to the requested page, and never anywhere else."""
        for wanted, place in (
            ("/caches", "/caches"),
            ("/caches/x/edit", "/caches"),
            ("/api", "/api"),
            ("/apis", "/settings"),
            ("https://evil.example", "/settings"),
            ("//evil", "/settings"),
        ):
            browser = Browser(self)
            browser.get("/caches")
            reply = browser.post("/settings/sign-in", username="alice", password="wonder", next=wanted)
            self.assertEqual(reply.header("Location"), place)
            link = browser.get(f"/settings/sign-in?next={wanted}")
            self.assertEqual((link.status, link.header("Location")), (303, place))
        stranger = Browser(self)
        stranger.get("/settings/sign-in?next=/api")
        self.assertIn('name="next" value="/api"', stranger.page)


class ForgeryTests(AdminSiteTestCase):
    """Forms that the site's pages did not send."""

    def test_foreign(self) -> None:
        """A form of another or an unknown site does nothing, even with the right token."""
        self.directory.add(cache(1))
        browser = Browser(self)
        browser.sign_in("bob")
        browser.get("/settings")
        for headers in (
            {},
            {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
            {"Origin": "null"},
            {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
            {"Origin": ORIGIN.replace("https", "http")},
            {"Origin": f"{ORIGIN}:8443"},
            {"Sec-Fetch-Site": "none"},
        ):
            self.assertEqual(browser.post("/settings", headers=headers, cache=str(ONE)).status, 403)
        self.assertIsNone(self.directory.choice("bob"))
        browser.get("/settings")
        self.assertEqual(browser.post("/settings", headers={"Origin": ORIGIN}, cache=str(ONE)).status, 303)
        self.assertEqual(self.directory.choice("bob"), ONE)

    def test_token(self) -> None:
        """A form without its page's token does nothing: not another session's, nor one from before signing in."""
        self.directory.add(cache(1))
        browser, other = Browser(self), Browser(self)
        browser.get("/settings")
        before = browser.csrf
        browser.sign_in("bob")
        other.sign_in("alice")
        other.get("/settings")
        for csrf in ("", before, other.csrf, "é"):
            self.assertEqual(browser.post("/settings", csrf=csrf, cache=str(ONE)).status, 403)
        stranger = Browser(self)
        self.assertEqual(
            stranger.post("/settings/sign-in", csrf=before, username="bob", password="builder").status, 403
        )
        self.assertIsNone(self.directory.choice("bob"))

    def test_odd_forms(self) -> None:
        """A malformed or too large form is refused."""
        browser = Browser(self)
        browser.sign_in("bob")
        browser.get("/settings")
        headers = {"Origin": ORIGIN, "Content-Type": "text/plain"}
        many: Any = {f"f{number}": "" for number in range(30)}
        self.assertEqual(browser.post("/settings", headers=headers).status, 415)
        self.assertEqual(browser.post("/settings", x="y" * (64 << 10)).status, 413)
        self.assertEqual(browser.post("/settings", **many).status, 400)


class PagesTests(AdminSiteTestCase):
    """The content of the pages."""

    def test_settings(self) -> None:
        """Caches with their states, the choice marked, and the default of the network."""
        self.directory.add(cache(1, "near"))
        self.directory.add(cache(2, "far"))
        self.probe.dead.add(cache(2).host)
        browser = Browser(self, "192.0.2.5")
        browser.sign_in("bob")
        browser.get("/settings")
        self.assertIn("not asked yet", browser.page)
        self.assertIn("near, the default of your network", browser.page)
        self.liveness.start()
        browser.post("/settings", cache=str(UUID(int=2)))
        page = browser.get("/settings").body.decode()
        self.assertIn("You pull through far now.", page)
        self.assertIn(f'value="{UUID(int=2)}" checked', page)
        self.assertIn("alive since", page)
        self.assertIn("dead since", page)
        self.assertIn("no answer within 5 s", page)
        self.assertNotIn("You pull", browser.get("/settings").body.decode())
        browser.post("/settings", cache="")
        self.assertIsNone(self.directory.choice("bob"))
        self.assertEqual(browser.post("/settings", cache="x").status, 404)

    def test_caches(self) -> None:
        """An administrator adds a cache, sees whether it answers, probes and removes it."""
        browser = Browser(self)
        browser.sign_in("alice")
        browser.get("/caches")
        self.assertEqual(browser.post("/caches", name="near", host="https://near.example").status, 303)
        self.assertIn("near is added, and it answers.", browser.get("/caches").body.decode())
        self.probe.dead.add("https://near.example")
        browser.post(f"/caches/{ONE}/test")
        self.assertIn("near was asked, but it does not answer", browser.get("/caches").body.decode())
        browser.get("/caches")
        wrong = browser.post("/caches", name="near", host='"><script>alert(1)</script>')
        self.assertEqual(wrong.status, 400)
        self.assertNotIn(b"<script>alert", wrong.body)
        self.assertIn(b"&lt;script&gt;", wrong.body)
        browser.post(f"/caches/{ONE}/remove")
        self.assertEqual(self.directory.caches(), [])
        self.assertEqual(browser.post(f"/caches/{ONE}/test").status, 404)

    def test_edit(self) -> None:
        """A cache moves to https: its users keep their choice; how many they are stands on each page about it."""
        self.directory.add(Cache(ONE, "near", "http://near.example"))
        for name in ("bob", "carol"):
            self.directory.choose(name, ONE)
        browser = Browser(self)
        browser.sign_in("alice")
        for target in ("/caches", f"/caches/{ONE}/edit", f"/caches/{ONE}/remove"):
            self.assertIn("2 users", browser.get(target).body.decode(), target)
        browser.get(f"/caches/{ONE}/edit")
        self.assertIn('value="http://near.example"', browser.page)
        reply = browser.post(f"/caches/{ONE}/edit", name="near", host="https://near.example")
        self.assertEqual((reply.status, reply.header("Location")), (303, "/caches"))
        self.assertIn("near is changed, and it answers.", browser.get("/caches").body.decode())
        self.assertEqual(self.directory.cache(ONE), Cache(ONE, "near", "https://near.example"))
        self.assertEqual([self.directory.choice(name) for name in ("bob", "carol")], [ONE, ONE])
        nobody = UUID(int=9)
        self.assertEqual(browser.get(f"/caches/{nobody}/edit").status, 404)
        self.assertEqual(browser.get(f"/caches/{nobody}/remove").status, 404)

    def test_all_faults(self) -> None:
        """
        All that is wrong with a form is said at once, each beside its field; the first of these fields has the
        focus, and what was typed is still there.
        """
        self.directory.add(cache(1, "near"))
        self.directory.add(cache(2, "far"))
        browser = Browser(self)
        browser.sign_in("alice")
        for target in ("/caches", f"/caches/{UUID(int=2)}/edit"):
            browser.get(target)
            reply = browser.post(target, name="Near", host="ftp://near.example")
            self.assertEqual(reply.status, 400)
            self.assertEqual(self.faults(browser), {"name": True, "host": False})
            self.assertIn("there is a cache called Near already", browser.page)
            self.assertIn("is not a URL of http or https", browser.page)
            self.assertIn('value="ftp://near.example"', browser.page)
            browser.post(target, name="new", host="")
            self.assertEqual(self.faults(browser), {"host": True})
            browser.post(target, name="", host="https://x.example")
            self.assertEqual(self.faults(browser), {"name": True})
        self.assertEqual(list(self.directory.caches()), [cache(2, "far"), cache(1, "near")])
        browser = Browser(self)
        browser.get("/settings")
        self.assertEqual(browser.post("/settings/sign-in", username=" ", password="").status, 400)
        self.assertEqual(self.faults(browser), {"username": True, "password": False})
        browser.sign_in("bob", "wrong")
        self.assertEqual(self.faults(browser), {"password": True})
        browser.sign_in("bob")
        browser.get("/settings")
        browser.post("/settings", cache=str(UUID(int=9)))
        self.assertIn("this cache has just been removed", browser.page)
        self.assertIn('role="radiogroup" aria-invalid="true" aria-describedby="cache-hint"', browser.page)

    def faults(self, browser: Browser) -> dict[str, bool]:
        """The fields that are marked as wrong, with a fault beside each, and which of them has the focus."""
        fields = {}
        for tag in re.findall(r'<input id="[^>]*aria-invalid="true"[^>]*>', browser.page):
            (name,) = re.findall(r'<input id="(\w+)"', tag)
            self.assertIn(f'aria-describedby="{name}-hint"', tag)
            self.assertIn(f'<p class="fault" id="{name}-hint" role="alert">', browser.page)
            fields[name] = "autofocus" in tag
        self.assertEqual(browser.page.count('class="fault"'), len(fields))
        return fields

    def test_not_for_all(self) -> None:
        """Only administrators see the caches' page or can use its forms."""
        self.directory.add(cache(1))
        browser = Browser(self)
        browser.sign_in("bob")
        browser.get("/settings")
        asked = list(self.probe.asked)
        for target in ("", f"/{ONE}/edit", f"/{ONE}/test", f"/{ONE}/remove"):
            browser.post(f"/caches{target}", name="x", host="https://x.example")
        self.assertEqual((list(self.directory.caches()), self.probe.asked), ([cache(1)], asked))
        for target in ("/caches", f"/caches/{ONE}/edit", f"/caches/{ONE}/remove"):
            self.assertEqual(browser.get(target).status, 403)
            self.assertIn(b"<h1>Sign in</h1>", Browser(self).get(target).body)

    def test_escaped(self) -> None:
        """Text from a cache's host is escaped."""
        self.directory.add(cache(1, "<b>"))
        browser = Browser(self)
        browser.sign_in("alice")
        for target in ("/settings", "/caches"):
            self.assertNotIn(b"<b>", browser.get(target).body)

    def test_policy(self) -> None:
        """Every page has the strict policy, and needs no other one: no inline script or style."""
        browser = Browser(self)
        browser.sign_in("alice")
        for target in ("/settings", "/caches", "/api", "/api/assets/none"):
            reply = browser.get(target)
            policy = reply.header("Content-Security-Policy") or ""
            self.assertTrue(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"))
            self.assertNotIn("unsafe", policy)
            page = reply.body.decode()
            for word in (" style=", "<style", " onclick=", "<script>", "http://", "//cdn"):
                self.assertNotIn(word, page)

    def test_assets(self) -> None:
        """Assets have their type, and are not sent twice; no other file is served by their path."""
        reply = self.send("GET", "/api/assets/pages.css")
        self.assertEqual((reply.status, reply.header("Content-Type")), (200, "text/css; charset=utf-8"))
        again = self.send("GET", "/api/assets/pages.css", {"If-None-Match": reply.header("ETag") or ""})
        self.assertEqual((again.status, again.body), (304, b""))
        for name in ("none", "..%2fsite.py", "%2e%2e/site.py", "files.py"):
            self.assertEqual(self.send("GET", f"/api/assets/{name}").status, 404)


class PlainTests(AdminSiteTestCase):
    """Without TLS, as on the loopback."""

    secure = False

    def test_cookie(self) -> None:
        """Browsers accept no secure cookie there, so it is not secure."""
        browser = Browser(self)
        reply = browser.sign_in("bob")
        (line,) = reply.headers.getRawHeaders("Set-Cookie") or ()
        self.assertTrue(line.startswith("contentcache-session="))
        self.assertNotIn("Secure", line)


class SessionsTests(SynchronousTestCase):
    """The table."""

    def test_bounds(self) -> None:
        """The table is bounded, and so are the sessions of one account; no id is in it."""
        sessions = Sessions(secret=b"s" * 64, randomness=Noise(), capacity=5, per_account=2)
        ids = [sessions.start(User("bob"), 0.0) for _ in range(4)]
        self.assertEqual([sessions.find(each, 0.0) is None for each in ids], [True, True, False, False])
        others = [sessions.start(User(f"user-{n}"), 0.0) for n in range(6)]
        self.assertEqual(len(sessions), 5)
        self.assertIsNone(sessions.find(ids[3], 0.0))
        self.assertNotIn(others[5], repr(vars(sessions)))
