"""axe-core in a page of Chromium: what the page is to people with a keyboard or a screen reader."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, TypeVar

from tests.real.chromium import Chromium

Marked = TypeVar("Marked")

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contentcache" / "axe"
_SCRIPTS: Final = sorted(Path(os.environ.get("CONTENTCACHE_AXE") or _CACHE).glob("axe-*.min.js"))
_RUN: Final = """
axe.run(document, {resultTypes: ["violations"]}).then(found => JSON.stringify(found.violations.map(rule =>
  `${rule.id}: ${rule.help}: ` + rule.nodes.map(node => `${node.target} (${node.failureSummary})`).join("; "))))
"""


def needs_axe(test: Marked) -> Marked:
    """A decorator of tests and their classes: skip where axe-core is missing."""
    if not _SCRIPTS:
        test.skip = "needs axe-core: scripts/install-axe fetches it"  # type: ignore[attr-defined]
    return test


def violations(browser: Chromium) -> list[str]:
    """What axe finds on the page that is loaded, a line for each rule. It works without the page's permission."""
    if not browser.run("'axe' in window"):
        browser.run(_SCRIPTS[-1].read_text() + ";true")
    found: list[str] = json.loads(browser.run(_RUN))
    return found
