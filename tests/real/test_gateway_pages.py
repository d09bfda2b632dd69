"""The pages and the API of a real gateway before a real registry, in one session."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from tests.real.gateway import GatewayDaemon
from tests.real.origin import Answer, Origin
from tests.real.programs import needs

_HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


@needs("docker-registry")
class PagesTests(SynchronousTestCase):
    """An administrator with one account of the registry."""

    def setUp(self) -> None:
        origin = Origin(self, users={"ann": "secret"})
        self.gateway = GatewayDaemon(self, origin.url, gateway={"admins": ["ann"]})
        self.cookies: dict[str, str] = {}
        self.token = ""

    def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: str | None = None
    ) -> Answer:
        """One request of a browser on a page of the gateway."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        common = {"Cookie": cookie, "Origin": self.gateway.url, "Sec-Fetch-Site": "same-origin"}
        answer = self.gateway.request(method, path, body, {"Accept": _HTML, **common, **(headers or {})})
        name, _, value = answer.headers.get("set-cookie", "").partition(";")[0].partition("=")
        if name:
            self.cookies[name] = value
        found = re.search(rb'name="csrf" value="([^"]+)"', answer.body)
        self.token = found[1].decode() if found else self.token
        return answer

    def form(self, path: str, **fields: str) -> Answer:
        """Send a form of the page that was loaded last."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, headers=headers, body=urlencode({"csrf": self.token, **fields}))

    def api(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Answer:
        """A request of the script of the API page."""
        headers = {"Accept": "*/*", "X-CSRF-Token": self.token, "Content-Type": "application/json"}
        return self.ask(
            method, f"/api/v0{path}", headers=headers, body=None if body is None else json.dumps(body)
        )

    def test_one_session(self) -> None:
        """
        From ``/`` to the pages; signed in once, the administrator adds a cache by the API, chooses it, moves it
        to https, which keeps the choice, and removes it, knowing for how many.
        """
        self.assertEqual(self.ask("GET", "/").headers["location"], "/settings")
        self.ask("GET", "/settings")
        self.assertEqual(self.form("/settings/sign-in", username="ann", password="").status, 400)
        reply = self.form("/settings/sign-in", username="ann", password="secret", next="/api")
        self.assertEqual((reply.status, reply.headers["location"]), (303, "/api"))
        self.ask("GET", "/api")
        added = self.api("POST", "/content_caches", {"name": "near", "host": "http://127.0.0.1:9"})
        self.assertEqual(added.status, 201)
        cache = json.loads(added.body)["id"]
        chosen = self.api("PATCH", "/accounts/ann/settings", {"contentCacheUUID": cache})
        self.assertEqual(json.loads(chosen.body), {"ContentCacheUUID": cache})
        self.ask("GET", f"/caches/{cache}/edit")
        self.assertEqual(
            self.form(f"/caches/{cache}/edit", name="near", host="https://127.0.0.1:9").status, 303
        )
        self.assertEqual(
            json.loads(self.api("GET", f"/content_caches/{cache}").body)["host"], "https://127.0.0.1:9"
        )
        self.assertEqual(
            json.loads(self.api("GET", "/accounts/ann/settings").body), {"ContentCacheUUID": cache}
        )
        self.assertIn(b"1 user", self.ask("GET", f"/caches/{cache}/remove").body)
        self.assertEqual(self.form(f"/caches/{cache}/remove").status, 303)
        self.assertEqual(json.loads(self.api("GET", "/accounts/ann/settings").body), {"ContentCacheUUID": ""})
        self.token = "of another page"
        self.assertEqual(self.api("GET", "/content_caches").status, 401)
