"""Tests for :mod:`contentcache.core.http_auth`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.http_auth import (
    MOST_CHALLENGES,
    MOST_PARAMETERS,
    Challenge,
    credentials_for,
    decode_basic,
    encode_basic,
    parse_challenges,
)


class HttpAuthTests(SynchronousTestCase):
    """Values of ``Authorization``."""

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_round_trip(self, username: bytes, password: bytes) -> None:
        """A user name without a colon and any password come back."""
        username = username.replace(b":", b"")
        credentials = credentials_for("basic", encode_basic(username, password))
        assert credentials is not None
        self.assertEqual(decode_basic(credentials), (username, password))

    def test_malformed(self) -> None:
        """Missing padding, another alphabet, white space, characters beyond ASCII and a missing colon: nothing."""
        for credentials in ("", "YTp", "YT pi", "YTpi\n", "_-__", "é", "\ud800", "YQ=="):
            self.assertIsNone(decode_basic(credentials), credentials)

    def test_schemes(self) -> None:
        """A scheme is found in any case, with any number of spaces behind it, and nowhere but at the start."""
        for authorization, expected in (
            ("Bearer a", "a"),
            ("BEARER   a b ", "a b"),
            ("Bearer", None),
            ("Bearer ", None),
            (" Bearer a", None),
            ("Bearer\ta", None),
            ("Bearers a", None),
            ("Basic a", None),
            ("", None),
            (None, None),
        ):
            self.assertEqual(credentials_for("Bearer", authorization), expected, authorization)

    @given(st.text(max_size=40))
    def test_any_text(self, text: str) -> None:
        """No header raises."""
        for authorization in (text, "Basic " + text):
            decode_basic(credentials_for("Basic", authorization) or "")


TABLE: list[tuple[list[str], list[tuple[str, dict[str, str], str | None]]]] = [
    ([], []),
    ([""], []),
    ([" , ,"], []),
    (["Basic"], [("basic", {}, None)]),
    (['Basic realm="x"'], [("basic", {"realm": "x"}, None)]),
    (["Negotiate"], [("negotiate", {}, None)]),
    (["Negotiate abc/+=="], [("negotiate", {}, "abc/+==")]),
    (["Negotiate abc=, Basic realm=x"], [("negotiate", {}, "abc="), ("basic", {"realm": "x"}, None)]),
    (
        [
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
        ],
        [
            (
                "bearer",
                {
                    "realm": "https://auth.docker.io/token",
                    "service": "registry.docker.io",
                    "scope": "repository:a/b:pull,push",
                },
                None,
            )
        ],
    ),
    (
        ['BEARER Realm = "a" , SERVICE="b", basic realm="c"'],
        [("bearer", {"realm": "a", "service": "b"}, None), ("basic", {"realm": "c"}, None)],
    ),
    (
        ['Bearer realm="a"', "Basic realm=b"],
        [("bearer", {"realm": "a"}, None), ("basic", {"realm": "b"}, None)],
    ),
    ([r'Bearer realm="a\"b\\c"'], [("bearer", {"realm": r'a"b\c'}, None)]),
    (["Bearer realm=https://a/t,service=s"], [("bearer", {"realm": "https://a/t", "service": "s"}, None)]),
    (['Bearer realm="a" service="b"'], [("bearer", {"realm": "a", "service": "b"}, None)]),
    (['Bearer realm="a",realm="b"'], [("bearer", {"realm": "a"}, None)]),
    (['Bearer realm="unfinished, Basic realm=b'], [("bearer", {"realm": "unfinished, Basic realm=b"}, None)]),
    (['realm="nobody", Basic realm=b'], [("basic", {"realm": "b"}, None)]),
    (['Bearer realm="a" error text="x, y", service=s'], [("bearer", {"realm": "a", "service": "s"}, None)]),
    (['@@@ "x, Basic y", Basic realm=z'], [("basic", {"realm": "z"}, None)]),
    (["Bearer realm=, Basic realm=z"], [("bearer", {}, "realm="), ("basic", {"realm": "z"}, None)]),
]


class ParseChallengesTests(SynchronousTestCase):
    """What is made of ``WWW-Authenticate``."""

    def test_table(self) -> None:
        """Each header gives exactly its challenges, in order, whatever stands around them."""
        for values, expected in TABLE:
            with self.subTest(values=values):
                got = [(c.scheme, dict(c.parameters), c.token68) for c in parse_challenges(values)]
                self.assertEqual(expected, got)

    @given(st.lists(st.text(alphabet=st.sampled_from('abBé="\\, \t=/@%\x00'), max_size=80), max_size=4))
    def test_never_raises(self, values: list[str]) -> None:
        """No input raises, and whatever comes out is a challenge."""
        for challenge in parse_challenges(values):
            self.assertIsInstance(challenge, Challenge)
            self.assertEqual(challenge.scheme.lower(), challenge.scheme)

    @given(st.dictionaries(st.sampled_from(["realm", "service", "scope"]), st.text(max_size=30), min_size=1))
    def test_quoted_values_come_back(self, parameters: dict[str, str]) -> None:
        """Any value that is quoted by the rules is read as it was."""
        quoted = ", ".join(
            '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
            for name, value in parameters.items()
        )
        [challenge] = parse_challenges([f"Bearer {quoted}"])
        self.assertEqual(parameters, dict(challenge.parameters))

    def test_bounds(self) -> None:
        """Neither challenges nor parameters grow without end."""
        many = parse_challenges([", ".join(f"S{number} a=b" for number in range(1000))])
        self.assertEqual(MOST_CHALLENGES, len(many))
        [one] = parse_challenges(["Bearer " + ",".join(f"p{number}=x" for number in range(1000))])
        self.assertEqual(MOST_PARAMETERS, len(one.parameters))
