"""
The status page and the page at ``/`` in a real browser, and the history over restarts.

With ``PICTURES`` set some pictures go to ``docs/images``.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.hidden_names import without_names
from contentcache.admin.status_page import render
from tests.admin import samples
from tests.real.asking import Asker
from tests.real.axe import needs_axe, violations
from tests.real.cache import ContentCache
from tests.real.chromium import Chromium
from tests.real.clients import skopeo_copy
from tests.real.gateway import GatewayDaemon
from tests.real.images import Image, push_blob, push_image, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import PATIENCE, ROOT, Case, needs, place, until

#: Which pictures the documentation shows: page, scheme, width.
_KEPT = {
    ("busy", "light", 1280): "status-light",
    ("busy", "dark", 1280): "status-dark",
    ("busy", "light", 360): "status-phone",
}
#: A blob that is under way for two minutes, unless the line becomes faster.
_SIZE = 4 << 20
_RATE = 32 << 10


class PageHost:
    """Serves pages that are made up, with their headers; :attr:`url` is where they are."""

    def __init__(self, case: Case, pages: Mapping[str, tuple[bytes, Mapping[str, str]]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body, headers = pages.get(self.path, (b"", {}))
                self.send_response(200 if body else 404)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        case.addCleanup(thread.join)
        case.addCleanup(server.server_close)
        case.addCleanup(server.shutdown)


def document(cache: ContentCache) -> Any:
    """The status document."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{cache.debug_port}/v1/status", timeout=30) as answer:
        return json.load(answer)


def savings(cache: ContentCache) -> tuple[int, int, int]:
    """Bytes sent and received, and pulls, of the last 30 days: a test may run at midnight."""
    found = document(cache)["savings"]["days_30"]
    return found["sent_bytes"], found["received_bytes"], found["pulls"]


def pull(case: Case, cache: ContentCache, image: Image) -> int:
    """Pull an image on a connection of its own; how many bytes came."""
    asker, size = Asker(case, cache.host), 0
    paths = [f"manifests/{image.tag}", *(f"blobs/{blob.digest}" for blob in image.blobs())]
    for path in paths:
        answer = asker.ask("GET", f"/v2/{image.name}/{path}")
        assert answer.status == 200, answer
        size += len(answer.body)
    return size


@needs("chromium", "docker-registry")
@needs_axe
class LookTests(SynchronousTestCase):
    """Pages as people see them."""

    def setUp(self) -> None:
        self.browser = Chromium(self)

    def look(self, url: str, name: str) -> None:
        """A page has no faults for people with a keyboard, and is not wider than a phone, in light and dark."""
        browser = self.browser
        for scheme in ("light", "dark"):
            for width, height in ((360, 740), (1280, 900)):
                browser.look(width=width, height=height, dark=scheme == "dark", phone=width == 360)
                browser.go(url)
                kept = _KEPT.get((name, scheme, width)) if os.environ.get("PICTURES") else None
                folder = place(self) if kept is None else ROOT / "docs" / "images"
                browser.picture(folder / f"{kept or name}.png", whole=False)
                words = (name, scheme, width)
                self.assertLessEqual(browser.run("document.documentElement.scrollWidth"), width, words)
                paper = browser.run("getComputedStyle(document.body).backgroundColor")
                self.assertEqual(sum(map(int, paper[4:-1].split(","))) < 200, scheme == "dark", words)
                self.assertEqual(violations(browser), [], words)
        self.assertEqual(browser.complaints, [])

    def test_status(self) -> None:
        """The status page of a busy cache, of a new one, and without names."""
        documents = {"busy": samples.busy(), "new": samples.new(), "hidden": without_names(samples.busy())}
        pages = {
            f"/{name}": render(
                status,
                names=name != "hidden",
                refresh=None,
                address="cache.example.com:5000",
                metrics="/metrics",
            )
            for name, status in documents.items()
        }
        host = PageHost(self, pages)
        for name in documents:
            self.look(f"{host.url}/{name}", name)
        self.assertEqual(
            set(self.browser.visited) - {f"{host.url}/{name}" for name in documents}, self.icons()
        )

    def test_setup(self) -> None:
        """The page at ``/`` of the cache."""
        cache = ContentCache(self, "https://registry-1.docker.io")
        self.look(f"{cache.url}/", "setup")
        text = self.browser.text
        self.assertIn(f"docker pull {cache.host}/library/alpine", text)
        self.assertIn(f'"registry-mirrors": ["{cache.url}"]', text)
        self.assertEqual(set(self.browser.visited) - {f"{cache.url}/"}, self.icons())

    def icons(self) -> set[str]:
        """The icons of pages, which are in them."""
        return {url for url in self.browser.visited if url.startswith("data:image/svg+xml")}


@needs("chromium", "docker-registry", "skopeo")
class OperatorTests(SynchronousTestCase):
    """An operator with a browser without script, and a running cache."""

    def test_day(self) -> None:
        """What to do first, what is pulled, what is under way, by keyboard."""
        origin = Origin(self)
        line = CountingProxy(self, origin.port)
        cache = ContentCache(self, {"originhost": f"http://127.0.0.1:{line.port}"})
        browser = Chromium(self)
        browser.look()
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        url = f"http://127.0.0.1:{cache.debug_port}/"
        browser.go(url)
        self.assertIn(f"docker pull {cache.host}/", browser.text)

        image = push_image(origin, "team/app", layers=(900_000, 30_000))
        for _ in range(3):
            skopeo_copy(image.reference(cache.host), place(self))
        cache.wait_stored(*(blob.digest for blob in image.blobs()))
        until(lambda: document(cache)["savings"]["days_30"]["hits"] >= 6, "the hits in the document")
        until(lambda: document(cache)["savings"]["days_30"]["saved_bytes"] > 1_500_000, "what was saved")
        browser.tab_to("e.textContent === 'Refresh'")
        browser.loading(lambda: browser.press("Enter"))
        text = browser.text
        self.assertNotIn("docker pull", text)
        self.assertIn("MB saved", text)
        self.assertIn("Most pulled in 30 days", text)
        self.assertIn("team/app", text)
        self.assertIn("round trip", text)

        digest = push_blob(origin, "team/app", random_bytes(_SIZE, "slow"))
        line.rate = _RATE
        client = http.client.HTTPConnection(cache.host, timeout=PATIENCE)
        self.addCleanup(client.close)
        client.request("GET", f"/v2/team/app/blobs/{digest}")
        until(
            lambda: [one for one in document(cache)["downloads"] if one["size"] == _SIZE],
            "the download's size",
        )
        browser.tab_to("e.textContent === 'Every 10 s'")
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("Stop refreshing every 10 s", browser.text)
        self.assertIn("In flight 1", browser.text)
        self.assertEqual(browser.run("document.querySelector('progress').max"), _SIZE)
        line.rate = None
        cache.wait_stored(digest)
        browser.tab_to("e.textContent.startsWith('Stop')")
        browser.loading(lambda: browser.press("Enter"))
        self.assertEqual(browser.complaints, [])
        for visited in browser.visited:
            self.assertTrue(visited.startswith((url, "data:image/svg+xml")), visited)


@needs("chromium", "docker-registry")
@needs_axe
class GatewayTests(SynchronousTestCase):
    """A gateway's status page, and its ``/``."""

    def test_pages(self) -> None:
        """The status page has its caches, and browsers are led from ``/`` to the pages for users."""
        gateway = GatewayDaemon(self, Origin(self).url)
        browser = Chromium(self)
        browser.look()
        browser.go(f"http://127.0.0.1:{gateway.debug_port}/")
        self.assertIn("No cache yet", browser.text)
        self.assertEqual(violations(browser), [])
        self.assertEqual(browser.complaints, [])
        browser.go(f"{gateway.url}/")
        self.assertEqual(browser.run("location.pathname"), "/settings")


@needs("docker-registry")
class HistoryTests(SynchronousTestCase):
    """What was served, over restarts."""

    workers = 1

    def test_restart_and_kill(self) -> None:
        """Sums are right to the byte, survive a restart, and what was written survives a kill."""
        origin = Origin(self)
        cache = ContentCache(self, origin.url)
        image = push_image(origin, "team/app", layers=(200_000,))
        sizes = [pull(self, cache, image) for _ in range(4)]
        size, pulls = sizes[0], 4 * (2 + len(image.layers))
        self.assertEqual(sizes, [size] * 4)
        until(lambda: savings(cache) == (4 * size, size, pulls), "the sums in the document")
        cache.restart()
        self.assertEqual(savings(cache), (4 * size, size, pulls))
        self.assertIn("team/app", json.dumps(document(cache)["images"]["hottest"]))
        pull(self, cache, image)
        until(lambda: savings(cache)[0] == 5 * size, "the pull in the document")
        cache.kill9()
        cache.start()
        sent, received, _pulls = savings(cache)
        self.assertTrue(4 * size <= sent <= 5 * size, sent)
        self.assertEqual(received, size)

    def test_damaged(self) -> None:
        """A damaged file is put aside with a warning, and the cache serves and counts."""
        origin = Origin(self)
        cache = ContentCache(self, origin.url)
        cache.stop()
        history = cache.root / "contentcache" / "history.json"
        history.write_bytes(b"{")
        cache.start()
        cache.wait_for_log("history damaged, begun anew")
        self.assertEqual(history.with_name("history.json.damaged").read_bytes(), b"{")
        size = pull(self, cache, push_image(origin, "team/app"))
        until(lambda: savings(cache)[0] == size, "the sums in the document")
        cache.stop()
        self.assertIn(f"[{size},", history.read_text())


class WorkersHistoryTests(HistoryTests):
    """The same with two workers, one of which ends."""

    workers = 2
