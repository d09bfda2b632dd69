"""Tests for :mod:`contentcache.commands.status_tables`."""

from __future__ import annotations

import io
from typing import Any

from attrs import evolve
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.status import (
    CacheSummary,
    CertificateStatus,
    GatewayStatus,
    ReloadStatus,
    as_json,
)
from contentcache.commands.status_tables import render
from tests.admin.test_status import DIGEST, make_status


def shown(document: Any, width: int) -> str:
    """The document as text, so many columns wide."""
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, highlight=False)
    for part in render(document):
        console.print(part)
    return file.getvalue()


class RenderTests(SynchronousTestCase):
    """What people see."""

    def test_cache(self) -> None:
        """Everything of a cache is there; a narrow terminal folds, and loses nothing."""
        (short,) = make_status().downloads
        long = evolve(
            short,
            repository="a-department/with-a-long-name/of-an-image",
            bytes=1 << 30,
            size=4 << 30,
            bytes_per_second=1e6,
            upstream="https://registry.example:5000",
        )
        status = evolve(
            make_status(),
            downloads=(long,),
            certificates=(CertificateStatus("cache.example", 86460.0, "warn", "expires soon"),),
            reload=ReloadStatus(50.0, True, ("log.level",), ("http.addr",)),
        )
        wide = shown(as_json(status), 200)
        for words in (
            *(
                "Content Cache 1, cache: well, up 1m, process 7",
                "1.0 GiB of 4.0 GiB 25%",
                "976.6 KiB/s",
                "53m",
            ),
            *("a-department/with-a-long-name/of-an-image", "https://registry.example:5000", DIGEST[:19]),
            *("unhealthy", "59s ago", "502", "upstream failed digest=", "org/app", "cache.example", "1d0h"),
            *("expires soon", "changed: log.level; needs a restart: http.addr", "/s", "4 B"),
        ):
            self.assertIn(words, wide)
        narrow = shown(as_json(status), 80)
        self.assertLessEqual(max(map(len, narrow.splitlines())), 80)
        self.assertEqual(_letters(narrow), _letters(wide))

    def test_gateway(self) -> None:
        """Of a gateway caches, users and redirects are shown, and why a cache is unhealthy."""
        caches = (
            CacheSummary("eu", "https://eu.example", True, 1.0, None, 3, 9),
            CacheSummary("us", "https://us.example", False, 1.0, "connection refused", 1, 0),
        )
        gateway = GatewayStatus("https://registry.example", "https://gw.example", 4, 9, caches)
        status = evolve(make_status(), role="gateway", savings=None, store=None, gateway=gateway)
        text = shown(as_json(status), 80)
        for words in (
            "gateway: well",
            "9 redirects",
            "https://eu.example",
            "us: connection refused",
            "users",
        ):
            self.assertIn(words, text)

    def test_words_of_others(self) -> None:
        """What others have chosen is shown as it is, and orders nothing."""
        status = make_status()
        (upstream,) = status.upstreams
        status = evolve(status, upstreams=(evolve(upstream, reason="[bold]x[/bold] \x1b[2J"),))
        self.assertIn("[bold]x[/bold] ?[2J", shown(as_json(status), 80))


def _letters(text: str) -> list[str]:
    """All letters and digits, in no order: folding moves them."""
    return sorted(filter(str.isalnum, text))
