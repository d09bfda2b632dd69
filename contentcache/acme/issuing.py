"""
One certificate, by txacme's issuing service: the only room that knows it.

The service brings the order of things: a key, a challenge, the wait for the verdict, the signing request, the
chain. It speaks the protocol's first version, so it gets a client of ours that speaks the second; its own
timetable is not used (``docs/decisions/acme-by-txacme.rst`` says why).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from attrs import define, field, frozen
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import load_pem_x509_certificates
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from contentcache.acme.account_key import AccountKey
from contentcache.acme.challenges import Authorization, Challenge, chosen, fail
from contentcache.acme.client import AcmeClient, Order
from contentcache.acme.problems import ServerAway
from contentcache.acme.responders import Responder
from contentcache.core.ports import Timer
from contentcache.jose.jws import base64url_encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it has not changed for years, and uses old names
    from acme.messages import STATUS_PENDING, STATUS_VALID
    from txacme.interfaces import ICertificateStore, IResponder
    from txacme.service import AcmeIssuingService
    from txacme.util import csr_for_names

# txacme would load it with the first certificate, when the daemon may have another account.
default_backend()

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_OPEN: Final = frozenset({"pending", "processing"})


async def issue(
    host: str,
    client: AcmeClient,
    responders: Sequence[Responder],
    *,
    timer: Timer,
    remember: Callable[[str, bytes], Awaitable[None]],
    replaces: str | None = None,
) -> bytes:
    """
    A new certificate for ``host`` with a new key: the key, the leaf and its chain in PEM.

    ``responders`` are tried in their order: the first whose challenge is offered answers. ``remember`` is
    given the order's URL and its key in PEM before that is handed in. Raises an ``AcmeFault``.
    """
    shelf = _Shelf()
    key = ec.generate_private_key(ec.SECP256R1())
    asking = _Client(client, host, [each.kind for each in responders], replaces, key, remember)
    service = AcmeIssuingService(
        cert_store=shelf,
        client_creator=lambda: succeed(asking),
        clock=timer,
        responders=[_Responder(each) for each in responders],
        generate_key=lambda: key,
    )
    try:
        await service.issue_cert(host)
    finally:
        # The service forgets to, where the server refuses the challenge's answer.
        for responder in responders:
            responder.stop(host)
    return shelf.pem


async def resume(host: str, client: AcmeClient, order: Order, key: Any) -> bytes:
    """
    The leaf and its chain in PEM for an order that was made before with ``key``. Raises an ``AcmeFault``.
    """
    csr = csr_for_names([host], key).public_bytes(Encoding.DER)
    chain = load_pem_x509_certificates(await client.certificate(order, csr))
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


@implementer(ICertificateStore)
class _Shelf:
    """
    Where the service puts what it has got.
    """

    def __init__(self) -> None:
        self.pem = b""

    def store(self, _host: str, objects: Sequence[Any]) -> Deferred[None]:
        self.pem = b"".join(each.as_bytes().rstrip(b"\n") + b"\n" for each in objects)
        return succeed(None)


@implementer(IResponder)
@frozen
class _Responder:
    """
    A responder of ours as the service knows it.
    """

    inner: Responder

    @property
    def challenge_type(self) -> str:
        return self.inner.kind

    def start_responding(self, host: str, challenge: _Challenge, response: str) -> None:
        if not challenge.is_done:
            self.inner.start(host, challenge.token, response)

    def stop_responding(self, host: str, _challenge: _Challenge, _response: str) -> None:
        self.inner.stop(host)


@frozen
class _Challenge:
    """
    A challenge with the attributes that the service reads. ``is_done``: the server knows already that the
    host is ours, from an order before, and nothing is to be answered.
    """

    typ: str
    url: str
    token: str
    is_done: bool = False

    @property
    def chall(self) -> _Challenge:
        return self

    def response(self, key: AccountKey) -> str:
        return f"{self.token}.{base64url_encode(key.thumbprint())}"


@frozen
class _Named:
    value: str


@frozen
class _Body:
    """
    An authorization's body, in the words of ACME's first version: combinations of challenges that suffice.
    """

    identifier: _Named
    status: Any
    resolved_combinations: tuple[tuple[_Challenge, ...], ...]


@frozen
class _Resource:
    body: _Body
    url: str


@frozen
class _Certificate:
    body: bytes
    chain: tuple[bytes, ...] = ()


@define
class _Client:
    """
    Our client with the methods that the service calls.
    """

    inner: AcmeClient
    host: str
    kinds: Sequence[str]
    replaces: str | None
    private: ec.EllipticCurvePrivateKey
    remember: Callable[[str, bytes], Awaitable[None]]
    _order: Order | None = field(default=None, init=False)
    _looks: int = field(default=0, init=False)

    @property
    def key(self) -> AccountKey:
        return self.inner.key

    def request_challenges(self, _identifier: object) -> Deferred[_Resource]:
        return _started(self._request_challenges())

    async def _request_challenges(self) -> _Resource:
        self._order = await self.inner.order(self.host, self.replaces)
        authorization = await self.inner.authorization(self._order)
        if authorization.host != self.host:
            raise ServerAway(
                f"the ACME server wants proof of {authorization.host}, and {self.host} was asked for"
            )
        return self._resource(authorization)

    def answer_challenge(self, challenge: _Challenge, _response: str) -> Deferred[None]:
        return _started(self._answer_challenge(challenge))

    async def _answer_challenge(self, challenge: _Challenge) -> None:
        if not challenge.is_done:
            await self.inner.begin(Challenge(challenge.typ, challenge.url, challenge.token))

    def poll(self, resource: _Resource) -> Deferred[tuple[_Resource, float]]:
        return _started(self._poll(resource))

    async def _poll(self, resource: _Resource) -> tuple[_Resource, float]:
        authorization, pause = await self.inner.look_at(resource.url, self._looks)
        self._looks += 1
        return self._resource(authorization), pause

    def request_issuance(self, request: Any) -> Deferred[_Certificate]:
        return _started(self._request_issuance(request.csr.public_bytes(Encoding.DER)))

    async def _request_issuance(self, csr: bytes) -> _Certificate:
        assert self._order is not None  # noqa: S101  # the service has asked for challenges first
        key = self.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        await self.remember(self._order.url, key)
        pem = await self.inner.certificate(self._order, csr)
        leaf, *chain = (each.public_bytes(Encoding.DER) for each in load_pem_x509_certificates(pem))
        return _Certificate(leaf, tuple(chain))

    def fetch_chain(self, certificate: _Certificate) -> Deferred[list[_Certificate]]:
        return succeed([_Certificate(each) for each in certificate.chain])

    def _resource(self, authorization: Authorization) -> _Resource:
        if authorization.status == "valid":
            # Challenges of other kinds than ours may be all that is left of it.
            return self._made(authorization, STATUS_VALID, _Challenge(self.kinds[0], "", "", is_done=True))
        if authorization.status not in _OPEN:
            fail(authorization)
        ours = chosen(authorization, self.kinds)
        if not _TOKEN.fullmatch(ours.token):
            raise ServerAway("the ACME server's token has letters that none may have")
        return self._made(authorization, STATUS_PENDING, _Challenge(ours.kind, ours.url, ours.token))

    @staticmethod
    def _made(authorization: Authorization, status: Any, challenge: _Challenge) -> _Resource:
        return _Resource(_Body(_Named(authorization.host), status, ((challenge,),)), authorization.url)


def _started(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)
