"""The page for browsers at ``/``: who gets it, and what is in it."""

from __future__ import annotations

from html import unescape

from contentcache.config.model import Upstream
from tests.registry.harness import Client, RegistryTestCase, Reply, request

_BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class SetupPageTests(RegistryTestCase):
    """Browsers and others at ``/``."""

    def fetch(self, *fields: str, target: str = "/", method: str = "GET") -> Reply:
        """Ask for the page."""
        return Client(self.factory).ask(target, *fields, method=method)

    def page(self, *upstreams: Upstream, **options: str) -> str:
        """The text of the page of a cache for these upstreams."""
        self.factory = self.build(*upstreams, **options)  # type: ignore[arg-type]
        return unescape(self.fetch(_BROWSER).body.decode())

    def test_registry_clients(self) -> None:
        """Whoever does not say that it wants HTML gets the empty answer that it always got."""
        for fields in ((), ("Accept: */*",), ("Accept: application/json",), ("Accept: text/html;q=0",)):
            reply = self.fetch(*fields)
            self.assertEqual(
                (reply.status, reply.body, reply.header("Content-Type")), (200, b"", "text/plain")
            )
            self.assertEqual(reply.header("Cache-Control"), "no-cache")
        self.assertEqual(self.fetch(method="HEAD").header("Content-Length"), "0")

    def test_browser(self) -> None:
        """A browser gets the page, under a policy that lets it load and run nothing."""
        reply = self.fetch(_BROWSER)
        self.assertEqual(reply.header("Content-Type"), "text/html; charset=utf-8")
        self.assertEqual(reply.header("Vary"), "Accept")
        policy = reply.header("Content-Security-Policy") or ""
        self.assertTrue(policy.startswith("default-src 'none'; style-src 'sha256-"), policy)
        self.assertNotIn("unsafe", policy)
        self.assertNotIn(b"<script", reply.body)
        self.assertNotIn(b'href="http', reply.body)
        self.assertIn("docker pull cache.example/", reply.body.decode())
        head = self.fetch(_BROWSER, method="HEAD")
        self.assertEqual(head.header("Content-Length"), str(len(reply.body)))
        self.assertEqual(self.services.asked, [])

    def test_docker_hub(self) -> None:
        """For Docker Hub there is a mirror for docker, and the names that clients use."""
        text = self.page(Upstream("https://registry-1.docker.io", ("https://registry-1.docker.io",)))
        self.assertIn(
            '{"registry-mirrors": ["http://cache.example"], "insecure-registries": ["cache.example"]}', text
        )
        self.assertIn("/etc/containerd/certs.d/docker.io/hosts.toml", text)
        self.assertIn('server = "https://registry-1.docker.io"\n\n[host."http://cache.example"]', text)
        self.assertIn('location = "cache.example"\ninsecure = true', text)

    def test_other_registry(self) -> None:
        """Other registries have no mirror for docker; how many more there are is said."""
        text = self.page(
            Upstream("https://registry.example.com:5443", ("https://near.example",)),
            Upstream("https://b.example", ("https://b.example",)),
        )
        self.assertNotIn("registry-mirrors", text)
        self.assertIn("registry.example.com:5443 and 1 more registry", text.replace("</span>", ""))
        self.assertIn("/etc/containerd/certs.d/registry.example.com:5443/hosts.toml", text)
        self.assertNotIn("near.example", text)

    def test_prefix(self) -> None:
        """With a prefix containerd is told the path."""
        text = self.page(Upstream("https://a.example", ("https://a.example",)), prefix="/cache/")
        self.assertIn('[host."http://cache.example/cache/v2"]', text)
        self.assertIn("override_path = true", text)

    def test_hostile_host(self) -> None:
        """A host that is none is not written into the page."""
        client = Client(self.factory)
        client.send(request('http://x"><script>alert(1)</script>', _BROWSER))
        (reply,) = client.replies()
        self.assertNotIn(b"script", reply.body)
        self.assertEqual(self.fetch(_BROWSER, target="/?<script>").body.count(b"script"), 0)
