"""Bodies that are compressed although nobody asked for it."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Upstream
from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import OriginRefused, UpstreamBroken
from contentcache.core.live import Live
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.content_coding import LARGEST_DECODED, Decoder, content_codings
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request, UpstreamLimits
from tests.upstream.loopback import Answer, LoopbackTestCase

TEXT = b'{"tags": ["1", "2"]}' * 1000


def raw_deflate(data: bytes) -> bytes:
    """Without the frame of zlib, as some servers send it."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


CODED = {
    "gzip": gzip.compress(TEXT),
    "X-GZIP": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "Deflate, identity": raw_deflate(TEXT),
    "identity": TEXT,
}


class DecoderTests(SynchronousTestCase):
    """One coding, undone."""

    def decoded(self, coding: str, data: bytes, step: int) -> bytes:
        """All of it, fed in steps."""
        decoder = Decoder(content_codings([coding]))
        found = b"".join(
            piece for at in range(0, len(data), step) for piece in decoder.decode(data[at : at + step])
        )
        decoder.end()
        return found

    def test_round(self) -> None:
        """Every coding that is known, in steps of any size; several members of gzip, and zeros behind."""
        for coding, data in CODED.items():
            if coding != "identity":
                for step in (1, 7, 1 << 20):
                    self.assertEqual(self.decoded(coding, data, step), TEXT, (coding, step))
        two = gzip.compress(b"one") + gzip.compress(b"two")
        self.assertEqual([self.decoded("gzip", two + b"\0\0", step) for step in (1, 1000)], [b"onetwo"] * 2)

    def test_bomb(self) -> None:
        """A small body that would be large is given up at the bound, whatever it is fed in."""
        bomb = gzip.compress(bytes(4 * LARGEST_DECODED))
        decoder = Decoder(["gzip"])
        size = 0
        with self.assertRaises(UpstreamBroken):
            for piece in decoder.decode(bomb):
                size += len(piece)
        self.assertLessEqual(size, LARGEST_DECODED)

    def test_damaged(self) -> None:
        """What is damaged, cut short or empty is an error and nothing else."""
        damaged = bytearray(CODED["gzip"])
        damaged[40] ^= 255
        for data in (b"not compressed", bytes(damaged), CODED["gzip"][:-9], b""):
            self.assertRaises(UpstreamBroken, self.decoded, "gzip", data, 10)

    def test_unknown(self) -> None:
        """Several codings, and those that are not known, are refused with a sentence that names them."""
        for named in ("br", "zstd", "compress", "gzip, gzip", "gzip, br"):
            error = self.assertRaises(UpstreamBroken, Decoder, content_codings([named]))
            self.assertIn(named, error.message)


class CompressingUpstreamTests(LoopbackTestCase):
    """The same from an upstream."""

    def registry(self, answer: Answer) -> Registry:
        """A registry that answers so, whatever it is asked."""
        _, port = self.serve(lambda _path: answer)
        url = f"http://127.0.0.1:{port}"
        return Registry(
            Upstream(url, (url,)),
            {url: self.transport(url)},
            reactor=reactor,
            wall=lambda: 0.0,
            secret=b"",
            limits=Live(UpstreamLimits(10.0, 1000)),
            meter=Meter(),
        )

    async def body(self, registry: Registry, path: str, **more: Any) -> bytes:
        """What comes."""
        answer = await registry.ask(Request("GET", path, registry.subject("a", ANONYMOUS), **more))
        self.assertNotEqual(answer.length, len(CODED["gzip"]))
        return await answer.read(1 << 20)

    async def test_lists_and_manifests(self) -> None:
        """They are decoded, and their length is not that of what was sent."""
        for coding, data in CODED.items():
            registry = self.registry(Answer(200, {"Content-Encoding": coding, "Connection": "close"}, data))
            for path in ("/v2/a/tags/list", "/v2/a/manifests/1", "/v2/_catalog", "/v2/a/referrers/b", "/v2/"):
                self.assertEqual(await self.body(registry, path), TEXT)

    async def test_refused(self) -> None:
        """What cannot be decoded is an error that names it; a blob from the registry itself always is."""
        for path, coding in [
            ("/v2/a/tags/list", "br"),
            ("/v2/a/manifests/1", "gzip, gzip"),
            ("/v2/a/blobs/b", "gzip"),
            ("/v2/a/blobs/b", "x-gzip"),
            ("/v2/a/blobs/b", "br"),
        ]:
            registry = self.registry(
                Answer(200, {"Content-Encoding": coding, "Connection": "close"}, CODED["gzip"])
            )
            try:
                await self.body(registry, path)
            except UpstreamBroken as error:
                self.assertIn(coding, error.message)
            else:
                self.fail("it came")

    async def test_refusals(self) -> None:
        """A refusal stays one, with its body where that can be decoded."""
        for coding, body in (("gzip", TEXT), ("br", b"")):
            registry = self.registry(
                Answer(404, {"Content-Encoding": coding, "Connection": "close"}, CODED["gzip"])
            )
            for path in ("/v2/a/tags/list", "/v2/a/blobs/b"):
                refusing = Deferred.fromCoroutine(self.body(registry, path))
                failure = await refusing.addErrback(lambda failure: failure.value)
                assert isinstance(failure, OriginRefused)
                self.assertEqual((failure.status, failure.body), (404, body))

    async def test_identity_and_storage(self) -> None:
        """A blob without a coding, and an object of storage that says how it is stored, come as they are."""
        registry = self.registry(Answer(200, {"Content-Encoding": "identity"}, TEXT))
        self.assertEqual(await self.body(registry, "/v2/a/blobs/b"), TEXT)
        _, port = self.serve(lambda _path: Answer(200, {"Content-Encoding": "gzip"}, CODED["gzip"]))
        registry = self.registry(Answer(307, {"Location": f"http://127.0.0.1:{port}/x"}))
        answer = await registry.ask(Request("GET", "/v2/a/blobs/b", registry.subject("a", ANONYMOUS)))
        self.assertEqual(answer.length, len(CODED["gzip"]))
        self.assertEqual(await answer.read(1 << 20), CODED["gzip"])
