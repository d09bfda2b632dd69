"""
Everything that reads what strangers send, fed with nonsense that is almost right.

Longer by hand: ``CONTENTCACHE_FUZZ=20`` multiplies the cases, ``CONTENTCACHE_SEED`` makes other ones.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.faults import ConfigurationError
from contentcache.config.loading import load
from contentcache.core import durations, sizes
from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, DigestInvalid, RangeUnsatisfiable, UpstreamBroken
from contentcache.core.http_auth import parse_challenges
from contentcache.core.http_caching import evaluate, range_holds
from contentcache.core.manifests import normalize_accept, upstream_accept
from contentcache.core.ranges import (
    parse_body_start,
    parse_content_range,
    parse_length,
    parse_range,
    parse_unsatisfied_size,
    spans,
)
from contentcache.core.retry_after import retry_after_seconds
from contentcache.core.routes import parse, split_target
from contentcache.core.via import ViaPath, append_via
from contentcache.jose.claims import unverified_expiry
from tests.config import samples
from tests.registry.harness import BLOB, CONTENT, DIGEST, HOST, RegistryTestCase, replies

_TIMES: Final = int(os.environ.get("CONTENTCACHE_FUZZ", "1"))
_SEED: Final = os.environ.get("CONTENTCACHE_SEED", "fuzz")

_CHARACTERS: Final = (
    [chr(code) for code in range(256)]
    + ["\r\n", "\n", "%00", "%2f", "%2e%2e", "\u0661", "\u212a", "9" * 5000, "0" * 400, "A" * 20_000]
    + [",", ";", '"', "\\", "=", "-", "/", "..", "//", ":", "@", "?", "&", "*", " ", "\t"] * 4
)


def mangled(random_: random.Random, text: str) -> str:
    """``text`` with a few things taken out, doubled, put in, or put elsewhere."""
    for _ in range(random_.choice((0, 1, 1, 1, 2, 3, 8))):
        place = random_.randrange(len(text) + 1)
        stop = min(len(text), place + random_.choice((1, 1, 2, 5, 20)))
        match random_.randrange(6):
            case 0:
                text = text[:place] + text[stop:]
            case 1:
                text = text[:stop] + text[place:]
            case 2 | 3:
                text = text[:place] + random_.choice(_CHARACTERS) + text[place:]
            case 4:
                text = text[:place] + text[place:stop].swapcase() + text[stop:]
            case _:
                text = text[place:] + text[:place]
    return text[:60_000]


@frozen
class Reader:
    """A parser, good input for it, and what it may raise."""

    read: Callable[[str], object]
    good: Sequence[str]
    may_raise: tuple[type[Exception], ...] = ()


def _ranges(text: str) -> None:
    for size in (0, 1, 1000, 1 << 62):
        specs = parse_range(text)
        if specs:
            for span in spans(specs, size):
                assert 0 <= span.start < span.stop <= size, span


def _opening(text: str) -> None:
    for status in (200, 206, 416):
        for wanted in (0, 5):
            opening = parse_body_start(status, parse_length(text), text, wanted)
            assert 0 <= opening.start <= wanted, opening
            assert opening.total is None or opening.total >= 0, opening


def _patience(text: str) -> None:
    assert 0 <= retry_after_seconds(text, 1.7e9) <= 600


def _digest(text: str) -> None:
    assert str(Digest.parse(text)) == text


def _route(text: str) -> None:
    path, _, _ = split_target(text)
    parse(path)


_DIGEST = str(DIGEST)
_READERS: Final = {
    "range": Reader(_ranges, ("bytes=0-9", "bytes=5-, -5,0-0", "bytes=-1"), (RangeUnsatisfiable,)),
    "content-range": Reader(parse_content_range, ("bytes 5-9/10", "bytes 0-0/*", "bytes */7")),
    "unsatisfied": Reader(parse_unsatisfied_size, ("bytes */10", "bytes 0-1/2")),
    "opening": Reader(_opening, ("bytes 5-9/10", "bytes 0-9/10", "10"), (UpstreamBroken,)),
    "length": Reader(parse_length, ("0", "10", "18446744073709551616")),
    "retry-after": Reader(_patience, ("120", "Thu, 01 Jan 2026 00:01:30 GMT", "1.5")),
    "digest": Reader(_digest, (_DIGEST, "sha512:" + "ab" * 64), (DigestInvalid,)),
    "route": Reader(
        _route,
        (
            BLOB,
            "/v2/org/app/manifests/1.0",
            f"/v2/a/referrers/{_DIGEST}?artifactType=x/y",
            "/v2/_catalog?n=5&last=a",
            "http://cache:5000/v2/a/tags/list?n=1",
            "/v2/org/app/blobs/uploads/",
        ),
        (CacheError,),
    ),
    "challenge": Reader(
        lambda text: parse_challenges([text, text]),
        (
            'Bearer realm="https://a/t",service="a, \\"b",scope="repository:a/b:pull", Basic realm=x',
            "Negotiate YWJj==, Digest a=b",
        ),
    ),
    "via": Reader(
        lambda text: (ViaPath.of([text, text]).caches, append_via([text], "contentcache-ab")),
        ("1.1 contentcache-ab (Content Cache), 1.0 fred", "HTTP/1.1 a:80"),
    ),
    "accept": Reader(
        lambda text: (upstream_accept([text]), normalize_accept([text])),
        ("application/json, */*;q=0.1", "application/vnd.oci.image.index.v1+json"),
    ),
    "conditions": Reader(
        lambda text: (
            evaluate(_DIGEST, text, None),
            evaluate(_DIGEST, None, text),
            range_holds(_DIGEST, text),
        ),
        (f'"{_DIGEST}", W/"x"', "*"),
    ),
    "credential": Reader(
        lambda text: (unverified_expiry(text), Credential(text).lasting, Credential(text).key(b"k" * 64)),
        ("Basic YTpi", "Bearer e30.eyJleHAiOjE3ZTl9.c2ln", "Bearer eyJhbGciOiJub25lIn0.eyJleHAiOjF9."),
    ),
    "duration": Reader(durations.parse, ("1h30m", "24h", "-1.5s", "86400000000000"), (ValueError,)),
    "size": Reader(sizes.parse, ("64KiB", "1.5 GB", "7"), (ValueError,)),
}


class ParserTests(SynchronousTestCase):
    """Each parser on its own."""

    def test_parsers(self) -> None:
        """None raises anything but what it is said to raise, whatever it is given."""
        for name, reader in _READERS.items():
            random_ = random.Random(f"{_SEED} {name}")
            for good in reader.good:
                _try(reader, good)
            for number in range(2500 * _TIMES):
                text = mangled(random_, random_.choice(reader.good))
                try:
                    _try(reader, text)
                except Exception as error:
                    raise AssertionError(f"{name}, case {number}: {text[:300]!r}: {error!r}") from error

    def test_configuration(self) -> None:
        """A configuration is read, or all its faults are told: nothing else."""
        random_ = random.Random(f"{_SEED} configuration")
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "config.yml"
        good = [value for value in vars(samples).values() if isinstance(value, str) and "\n" in value]
        good.append(Path(__file__).parent.parent.joinpath("etc", "config.yml").read_text("utf-8"))
        for number in range(500 * _TIMES):
            text = mangled(random_, random_.choice(good))
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            variable = mangled(random_, "REGISTRY_HTTP_ADDR").replace("=", "").replace("\0", "")
            try:
                load(str(path), {variable: mangled(random_, ":5000")})
            except ConfigurationError as faulty:
                self.assertTrue(str(faulty))
            except Exception as error:
                raise AssertionError(f"case {number}: {text[:2000]!r}: {error!r}") from error


class ChannelTests(RegistryTestCase):
    """The channel with the API behind it, in memory."""

    def setUp(self) -> None:
        """Everything that is logged as a failure counts."""
        super().setUp()
        self.failures: list[Any] = []
        note: Any = self.note
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def note(self, event: LogEvent) -> None:
        """Something is logged."""
        if event.get("log_level") in {LogLevel.error, LogLevel.critical} or "log_failure" in event:
            self.failures.append(event)

    def test_requests(self) -> None:
        """
        Whatever arrives, in whatever pieces: what is answered is HTTP, nothing is a 500 or logged as a
        failure, a request never gets more than its own bytes, and the connection ends or waits for more.
        """
        random_ = random.Random(f"{_SEED} requests")
        for number in range(5000 * _TIMES):
            sent = "".join(self.request(random_) for _ in range(random_.choice((1, 1, 2))))
            sent = mangled(random_, sent) if random_.random() < 0.8 else sent
            self.upstream_says(200, {"Link": mangled(random_, '</v2/_catalog?last=a>; rel="next"')[:500]})
            client = self.client()
            data = sent.encode("latin-1", "replace")
            while data:
                count = random_.choice((1, 7, 100, len(data), len(data)))
                client.send(data[:count])
                data = data[count:]
            try:
                self.look(client, "HEAD" in sent.upper())
            except Exception as error:
                raise AssertionError(f"case {number}: {sent[:1000]!r}: {error!r}") from error
            client.leave()
            self.clock.advance(0.01)
            self.assertEqual(self.failures, [], (number, sent[:1000]))
        self.clock.advance(1000)
        self.assertEqual(self.factory.connections, 0)

    def look(self, client: Any, has_head: bool) -> None:
        """An answer is one, and has no more than what was asked for."""
        value = client.transport.value()
        if has_head:
            # Which answer has no body depends on how the cache has read the request.
            assert not value or value.startswith(b"HTTP/1."), value[:100]
        else:
            for reply in replies(value):
                assert reply.status < 500 or reply.status in {505, 508}, reply
                assert len(reply.body) < 2 * len(CONTENT) + 20_000, reply.status
        assert b" 500 " not in value.partition(b"\r\n")[0], value[:200]

    def request(self, random_: random.Random) -> str:
        """A request as it might be."""
        target = random_.choice(
            (
                BLOB,
                BLOB,
                "/v2/",
                "/",
                "/v2/org/app/manifests/latest",
                f"/v2/org/app/manifests/{DIGEST}?ns=a.example",
                "/v2/org/app/tags/list?n=3&last=%41",
                "/v2/_catalog",
                f"/v2/org/app/referrers/{DIGEST}",
                "/v2/org/app/blobs/uploads/",
            )
        )
        fields = [
            "Range: bytes=0-9,20-29,-5",
            "Accept: application/vnd.oci.image.manifest.v1+json, */*;q=0.5",
            "Authorization: Bearer e30.eyJleHAiOjE3ZTl9.c2ln",
            f'If-None-Match: "{DIGEST}"',
            f'If-Range: "{DIGEST}"',
            "Via: 1.1 contentcache-me (Content Cache), 1.0 fred",
            "Connection: keep-alive, close",
            "Expect: 100-continue",
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
            "X-Forwarded-For: 1.2.3.4",
        ]
        chosen = random_.sample(fields, random_.choice((0, 1, 1, 2, 4)))
        method = random_.choice(("GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "get"))
        lines = [f"{method} {target} HTTP/1.{random_.choice('1110')}", HOST.strip(), *chosen, "", ""]
        return "\r\n".join(lines)


def _try(reader: Reader, text: str) -> None:
    with contextlib.suppress(*reader.may_raise):
        reader.read(text)
