"""Tests for ``docs/what-passes.rst``: it says what the code does."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from contentcache.core.header_policy import RULES, passed, rule_for
from contentcache.core.routes import Paging
from contentcache.core.what_passes import CROSSING, QUERY_KEYS, REQUEST_HEADERS, tables
from contentcache.upstream.redirects import harmless

DOCUMENT = (Path(__file__).parents[1] / "docs" / "what-passes.rst").read_text("utf-8")


class WhatPassesTests(SynchronousTestCase):
    """The declaration, and what works from it."""

    def test_document(self) -> None:
        """The document has the tables that ``python -m contentcache.core.what_passes`` prints."""
        written = DOCUMENT.partition(".. what passes begin\n\n")[2].partition("\n.. what passes end")[0]
        self.assertEqual(written, tables())

    def test_answers(self) -> None:
        """A header that is dropped never passes, one that passes does so unchanged; each has one rule."""
        for rule in RULES:
            name = rule.name.replace("*", "anything")
            self.assertIs(rule_for(name), rule)
            found = passed([(name.encode(), [b"a", b"b"])])
            if rule.fate == "passed":
                self.assertEqual([*found.values()], [("a", "b")], name)
            elif rule.fate == "dropped":
                self.assertEqual(found, {}, name)
        self.assertEqual(passed([(b"X-Unheard-Of", [b"a"])]), {})

    def test_requests(self) -> None:
        """What crosses to another host is no credential; redirects are followed with this list."""
        sent = Headers({rule.name: ["x"] for rule in REQUEST_HEADERS})
        self.assertEqual({name.title() for name, _ in harmless(sent).getAllRawHeaders()}, {*CROSSING})
        self.assertNotIn(b"Authorization", CROSSING)
        self.assertNotIn(b"Cookie", CROSSING)
        self.assertEqual(len({rule.name for rule in REQUEST_HEADERS}), len(REQUEST_HEADERS))

    def test_query(self) -> None:
        """The keys of lists that pass are those that the parser takes."""
        passing = [rule.name for rule in QUERY_KEYS if rule.fate == "passed" and rule.name != "token"]
        query = {rule.name: ["5"] for rule in QUERY_KEYS} | {"other": ["5"]}
        self.assertEqual(Paging.of(query).query(), "?" + "&".join(f"{name}=5" for name in passing))
