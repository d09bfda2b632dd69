"""Accounts that may pull here and not there, a gateway that sends them to their cache, and the cache."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl, skopeo_copy
from tests.real.gateway import GatewayDaemon
from tests.real.images import push_image
from tests.real.origin import Origin, basic
from tests.real.programs import needs, place, until
from tests.real.tokens import TokenServer


@needs("docker-registry", "skopeo")
class RedirectTests(SynchronousTestCase):
    """Some may, and some may not."""

    def test_no_right(self) -> None:
        """
        Eve has an account and a cache, and no right to what bob has pulled through it: she is not sent there,
        gets nothing there, and the URL of something else that is hers opens nothing of it.
        """
        tokens = TokenServer(self, users={name: name for name in ("alice", "bob", "eve", "filler")})
        for name, repository in {"alice": "*", "bob": "org/*", "eve": "other/*", "filler": "*"}.items():
            tokens.allow(name, repository, "pull")
        origin = Origin(self, tokens=tokens)
        gateway = GatewayDaemon(
            self,
            origin.url,
            gateway={"admins": ["alice"], "account": {"username": "filler", "password": "filler"}},
        )
        cache = ContentCache(self, gateway.url)
        theirs, hers = (
            push_image(origin, name, layers=(200_000,), seed=name) for name in ("org/app", "other/app")
        )
        self.choose(gateway, cache, "bob", "eve")
        skopeo_copy(theirs.reference(gateway.host), place(self), creds="bob:bob")
        layer = theirs.layers[0].digest
        cache.wait_stored(layer)

        with self.assertRaises(AssertionError):
            skopeo_copy(theirs.reference(gateway.host), place(self), creds="eve:eve")
        served = cache.metric("contentcache_sent_bytes_total")
        path = f"/v2/org/app/blobs/{layer}"
        token = tokens.token("eve", tokens.grant("eve", ["repository:other/app:pull"]))
        for authorization in (f"Bearer {token}", basic("eve", "eve"), basic("eve", "wrong")):
            for url in (gateway.url, cache.url):
                answer = Curl(self).fetch(url + path, "-H", f"Authorization: {authorization}")
                self.assertEqual((answer.status, answer.headers.get("location")), (401, None), url)

        mine = f"/v2/other/app/blobs/{hers.layers[0].digest}"
        sent = gateway.request("GET", mine, headers={"Authorization": f"Bearer {token}"})
        self.assertEqual(sent.status, 307, sent)
        query = urlsplit(sent.headers["location"]).query
        for wrong in (path, f"/v2/other/app/blobs/{layer}"):
            for url in (cache.url, gateway.url):
                self.assertEqual(Curl(self).fetch(f"{url}{wrong}?{query}").status, 403, url + wrong)
        self.assertLess(cache.metric("contentcache_sent_bytes_total") - served, 4096)
        self.assertEqual(Curl(self).fetch(f"{cache.url}{mine}?{query}").status, 200)

    def choose(self, gateway: GatewayDaemon, cache: ContentCache, *accounts: str) -> None:
        """Alice adds the cache, and they choose it."""
        kind = {"Content-Type": "application/json"}
        body = json.dumps({"name": "cache", "host": cache.url})
        added = gateway.request(
            "POST", "/api/v0/content_caches", body, {**kind, "Authorization": basic("alice", "alice")}
        )
        self.assertEqual(added.status, 201, added)
        choice = json.dumps({"contentCacheUUID": json.loads(added.body)["id"]})
        for name in accounts:
            headers = {**kind, "Authorization": basic(name, name)}
            chosen = gateway.request("PATCH", f"/api/v0/accounts/{name}/settings", choice, headers)
            self.assertEqual(chosen.status, 200, chosen)
        until(lambda: "cache healthy" in gateway.log(), "the gateway's look at the cache")
