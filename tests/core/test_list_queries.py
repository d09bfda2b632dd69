"""Tests for :mod:`contentcache.core.list_queries`."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.errors import RequestMalformed
from contentcache.core.list_queries import LONGEST_QUERY, MAC_PARAMETER, ListQueries, namespace_of

_ORIGIN = "https://r.example"
_ASKED = "/v2/a/tags/list"
_PRINTABLE = st.text(
    alphabet=[chr(code) for code in range(0x21, 0x7F) if chr(code) not in "#<>"], max_size=40
)


def _followed(queries: ListQueries, link: str, namespace: str | None = None) -> tuple[str, str]:
    """The path and the raw query with which a client comes for the next page."""
    value = queries.link(f'<{link}>; rel="next"', _ORIGIN, _ASKED, str, namespace=namespace)
    found = re.fullmatch(r'<([^>?]*)\??([^>]*)>; rel="next"', value)
    assert found is not None
    return found[1], found[2]


class ListQueriesTests(SynchronousTestCase):
    """From a ``Link`` to the next page."""

    def setUp(self) -> None:
        self.queries = ListQueries(b"secret")

    def test_unchanged(self) -> None:
        """
        Whatever a registry has in a link comes back to it as it was, also after a restart and at another
        worker.
        """
        for query in (
            "n=1&next_page=tok%3D",
            "nextToken=abc",
            "last=" + "A" * 700 + "&n=1",
            "n=2147483647&last=x",
            "last=a+b&n=1",
            "n=01&x&y=&&x=2",
            "next_page=%FF%00",
            "ns=theirs&next_page=tok",
            "next_page=tok&ns=theirs",
            "ns=a&x=1&ns=b",
            "ns=theirs",
        ):
            for link in (
                f"{_ASKED}?{query}",
                f"https://r.example{_ASKED}?{query}",
                f"?{query}",
                f"list?{query}",
            ):
                for namespace in (None, "r.example"):
                    with self.subTest(link=link, namespace=namespace):
                        path, raw = _followed(self.queries, link, namespace)
                        self.assertEqual(path, _ASKED)
                        self.assertEqual(ListQueries(b"secret").upstream_query(raw, _ORIGIN), "?" + query)

    @settings(deadline=None)
    @given(_PRINTABLE)
    def test_any(self, query: str) -> None:
        """So does any query that a header can hold."""
        if query and MAC_PARAMETER not in query:
            _, raw = _followed(self.queries, f"{_ASKED}?{query}")
            self.assertEqual(self.queries.upstream_query(raw, _ORIGIN), "?" + query)

    def test_namespace(self) -> None:
        """
        Of a next page the namespace is the one that this cache has added, never the registry's own ``ns``; of
        another query it is the client's, wherever it stands, once.
        """
        for namespace in (None, "r.example"):
            _, raw = _followed(self.queries, f"{_ASKED}?ns=theirs&n=1", namespace)
            self.assertEqual(namespace_of(raw), namespace)
        for raw, expected in (("", None), ("n=1&ns=a%2Fb", "a/b"), ("ns=a&ns=a", "a"), ("ns=", "")):
            self.assertEqual(namespace_of(raw), expected)
        self.assertRaises(RequestMalformed, namespace_of, "ns=a&ns=b")

    def test_namespace_elsewhere(self) -> None:
        """A client may put the namespace that it adds by itself at any place."""
        _, raw = _followed(self.queries, f"{_ASKED}?next_page=tok&n=1")
        for query in (f"ns=a&{raw}", f"{raw}&ns=a", f"ns=a&{raw}&ns=a"):
            self.assertEqual(self.queries.upstream_query(query, _ORIGIN), "?next_page=tok&n=1")

    def test_plain(self) -> None:
        """A link with nothing but what the specification knows is as it was."""
        self.assertEqual(_followed(self.queries, f"{_ASKED}?n=5&last=a%2Fb"), (_ASKED, "n=5&last=a%2Fb"))
        self.assertEqual(_followed(self.queries, _ASKED), (_ASKED, ""))

    def test_made_up(self) -> None:
        """
        Unknown parameters that a client makes up pass nowhere: with no MAC, a wrong one, one of another
        query, or one of another origin.
        """
        _, raw = _followed(self.queries, f"{_ASKED}?next_page=tok&n=1")
        mac = raw.rpartition("&")[2]
        for made_up in (
            "next_page=tok&n=1",
            f"next_page=tok&n=1&{MAC_PARAMETER}=",
            f"next_page=tok&n=1&{MAC_PARAMETER}=\xe9",
            f"next_page=tok&n=1&{MAC_PARAMETER}={'0' * 32}",
            f"next_page=other&n=1&{mac}",
            f"{raw}&evil=1",
        ):
            with self.subTest(query=made_up):
                self.assertEqual(self.queries.upstream_query(made_up, _ORIGIN), "?n=1")
        self.assertEqual(self.queries.upstream_query(raw, "https://other.example"), "?n=1")
        self.assertEqual(ListQueries(b"other").upstream_query(raw, _ORIGIN), "?n=1")

    def test_behind_another_cache(self) -> None:
        """The MAC of a cache behind this one is part of the query: each takes off its own."""
        behind = ListQueries(b"behind")
        _, first = _followed(behind, f"{_ASKED}?next_page=tok")
        _, second = _followed(self.queries, f"{_ASKED}?{first}")
        self.assertEqual(self.queries.upstream_query(second, _ORIGIN), "?" + first)
        self.assertEqual(behind.upstream_query(first, _ORIGIN), "?next_page=tok")

    def test_bounded(self) -> None:
        """A query of more than 2 KiB passes nowhere."""
        _, raw = _followed(self.queries, f"{_ASKED}?x={'a' * (LONGEST_QUERY - 2)}")
        self.assertEqual(len(self.queries.upstream_query(raw, _ORIGIN)), LONGEST_QUERY + 1)
        _, raw = _followed(self.queries, f"{_ASKED}?x={'a' * (LONGEST_QUERY - 1)}")
        self.assertRaises(RequestMalformed, self.queries.upstream_query, raw, _ORIGIN)

    def test_bounded_in_a_row(self) -> None:
        """What passes through one cache passes through several: what each adds counts at none of the others."""
        raw = f"next_page={'a' * (LONGEST_QUERY - 20)}"
        hops = [ListQueries(f"cache {number}".encode()) for number in range(8)]
        for hop in hops:
            _, raw = _followed(hop, f"{_ASKED}?{raw}")
        for hop in reversed(hops):
            raw = hop.upstream_query(raw, _ORIGIN).removeprefix("?")
        self.assertEqual(raw, f"next_page={'a' * (LONGEST_QUERY - 20)}")

    def test_several(self) -> None:
        """Each link of a header is rewritten; what is none stays."""
        value = self.queries.link(
            '</a?n=1>; rel="next", <https://h/b>, <c', _ORIGIN, _ASKED, str, namespace=None
        )
        self.assertEqual(value, '</a?n=1>; rel="next", </b>, <c')
