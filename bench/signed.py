"""What a signed URL, and a client who is judged here, cost beside a grant: one small warm blob in each way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import bcrypt
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec

from bench.load import Rate, curl, wrk
from bench.peers import OURS, PLAIN, Blobs, Peer, Row, in_turn
from bench.scene import stage
from contentcache.core.digest import Digest
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.jose.keyset import encode_key_set
from tests.real.cache import ContentCache
from tests.real.programs import place

_SIZE: Final = 1000
_ANN: Final = "Authorization: Basic YW5uOjE="


def signed(rounds: int) -> list[Row]:
    """1 kB, 32 clients on open connections: granted, granted without the short ways, by a signed URL."""
    with stage() as on:
        blobs = Blobs(on)
        key = SigningKey("bench", "ES256", ec.generate_private_key(ec.SECP256R1()))
        shown = place(on) / "jwks.json"
        shown.write_bytes(encode_key_set([key.verification_key()]))
        origin = f"http://{blobs.host}"
        signing = {"jwks": str(shown)}
        peers = []
        for name, fastpath in ((OURS, "auto"), (PLAIN, "off")):
            options = {"authttl": "24h", "fastpath": fastpath, "signing": signing}
            cache = ContentCache(on, origin, options=options, log={"level": "info"})
            peers.append(Peer(name, cache.url, cache.process, cache.root))
        path = blobs.put(_SIZE, "small")
        token = sign_blob_token(
            key,
            issuer=origin,
            subject="bench",
            repository="org/app",
            digest=Digest.parse(path.rpartition("/")[2]),
            now=time.time(),
            lifetime=3600,
        )
        targets = {peer.name: path for peer in peers}
        peers.append(evolve(peers[0], name="signed"))
        targets["signed"] = f"{path}?token={token}"
        for peer in peers:
            curl(on, peer.url + targets[peer.name], _SIZE)

        def measure(peer: Peer, _number: int) -> Row:
            return _figures(wrk(on, peer.url + targets[peer.name], seconds=2))

        return in_turn(peers, rounds, measure)


def judged(rounds: int) -> list[Row]:
    """1 kB, 32 clients on open connections: granted; by a password that is judged here; that without short ways."""
    with stage() as on:
        blobs = Blobs(on)
        accounts = place(on) / "users"
        accounts.write_bytes(b"ann:" + bcrypt.hashpw(b"1", bcrypt.gensalt(10)) + b"\n")
        auth = {"htpasswd": {"realm": "here", "path": str(accounts)}}
        peers = []
        for name, fastpath, settings in (
            (OURS, "auto", {}),
            ("judged", "auto", {"auth": auth}),
            (f"judged, {PLAIN}", "off", {"auth": auth}),
        ):
            options = {"authttl": "24h", "fastpath": fastpath}
            cache = ContentCache(
                on, f"http://{blobs.host}", options=options, log={"level": "info"}, settings=settings
            )
            peers.append(Peer(name, cache.url, cache.process, cache.root))
        path = blobs.put(_SIZE, "small")
        for peer in peers:
            curl(on, peer.url + path, _SIZE, options=["-H", _ANN])

        def measure(peer: Peer, _number: int) -> Row:
            return _figures(wrk(on, peer.url + path, headers=[_ANN], seconds=2))

        return in_turn(peers, rounds, measure)


def _figures(rate: Rate) -> Row:
    return {
        "count": rate.requests,
        "1000 requests a second": rate.requests / rate.seconds / 1e3,
        "median ms": rate.median,
        "p99 ms": rate.p99,
    }


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "small-1k-signed": (signed, 5),
    "small-1k-judged": (judged, 5),
}
