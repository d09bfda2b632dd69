"""
Issues one certificate with txacme's issuing service: the only module that imports txacme.

The service runs the steps: a key, a challenge, polling, the signing request, the chain. It speaks ACME
version 1, so it gets adapters around our client for version 2 (RFC 8555). Its renewal timer is not used
(``docs/decisions/acme-by-txacme.rst`` says why).
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

from contentcache.acme.account import AccountKey
from contentcache.acme.challenges import AcmeAuthorization, AcmeChallenge, Responder
from contentcache.acme.errors import AcmeServerUnavailableError
from contentcache.acme.order import AcmeOrder, OrderClient
from contentcache.core.base64url import base64url_encode
from contentcache.core.ports import Timer

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its last release uses names that are deprecated now
    from acme.messages import STATUS_PENDING, STATUS_VALID
    from txacme.interfaces import ICertificateStore, IResponder
    from txacme.service import AcmeIssuingService
    from txacme.util import csr_for_names

# txacme would load it with the first certificate, after the daemon has changed its account.
default_backend()

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
#: Status of an authorization that is not decided yet (RFC 8555 §7.1.6).
_UNDECIDED: Final = frozenset({"pending", "processing"})


async def issue(
    host: str,
    client: OrderClient,
    responders: Sequence[Responder],
    *,
    timer: Timer,
    before_finalize: Callable[[str, bytes], Awaitable[None]],
    replaces: str | None = None,
) -> bytes:
    """
    A new certificate for ``host`` with a new key: the key, the leaf and its chain in PEM.

    The first of ``responders`` whose challenge is offered answers. ``before_finalize`` receives the order's
    URL and its key in PEM. Raises an ``AcmeError``.
    """
    store = _MemoryStore()
    key = ec.generate_private_key(ec.SECP256R1())
    adapter = _ClientAdapter(client, host, [each.kind for each in responders], replaces, key, before_finalize)
    service = AcmeIssuingService(
        cert_store=store,
        client_creator=lambda: succeed(adapter),
        clock=timer,
        responders=[_ResponderAdapter(each) for each in responders],
        generate_key=lambda: key,
    )
    try:
        await service.issue_cert(host)
    finally:
        # The service does not stop them where the server refuses to start the challenge.
        for responder in responders:
            responder.stop(host)
    return store.pem


async def resume(host: str, client: OrderClient, order: AcmeOrder, key: Any) -> bytes:
    """The leaf and its chain in PEM for an existing order with ``key``. Raises an ``AcmeError``."""
    csr = csr_for_names([host], key).public_bytes(Encoding.DER)
    chain = load_pem_x509_certificates(await client.finalize(order, csr))
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


@implementer(ICertificateStore)
class _MemoryStore:
    """Receives what the service has obtained."""

    def __init__(self) -> None:
        self.pem = b""

    def store(self, _host: str, objects: Sequence[Any]) -> Deferred[None]:
        self.pem = b"".join(each.as_bytes().rstrip(b"\n") + b"\n" for each in objects)
        return succeed(None)


@implementer(IResponder)
@frozen
class _ResponderAdapter:
    """One of our responders with the interface of txacme."""

    inner: Responder

    @property
    def challenge_type(self) -> str:
        return self.inner.kind

    def start_responding(self, host: str, challenge: _V1Challenge, response: str) -> None:
        if not challenge.is_done:
            self.inner.start(host, challenge.token, response)

    def stop_responding(self, host: str, _challenge: _V1Challenge, _response: str) -> None:
        self.inner.stop(host)


@frozen
class _V1Challenge:
    """
    A challenge with the attributes that the service reads. With ``is_done`` the authorization is valid from
    an earlier order, and nothing has to be answered.
    """

    typ: str
    url: str
    token: str
    is_done: bool = False

    @property
    def chall(self) -> _V1Challenge:
        return self

    def response(self, key: AccountKey) -> str:
        return f"{self.token}.{base64url_encode(key.thumbprint())}"


@frozen
class _V1Identifier:
    value: str


@frozen
class _V1Authorization:
    """An authorization's body as in ACME version 1: combinations of challenges, each of which suffices."""

    identifier: _V1Identifier
    status: Any
    resolved_combinations: tuple[tuple[_V1Challenge, ...], ...]


@frozen
class _V1Resource:
    body: _V1Authorization
    url: str


@frozen
class _V1Certificate:
    body: bytes
    chain: tuple[bytes, ...] = ()


@define
class _ClientAdapter:
    """Our client with the methods that the service calls."""

    inner: OrderClient
    host: str
    kinds: Sequence[str]
    replaces: str | None
    private: ec.EllipticCurvePrivateKey
    before_finalize: Callable[[str, bytes], Awaitable[None]]
    _order: AcmeOrder | None = field(default=None, init=False)
    _polls: int = field(default=0, init=False)

    @property
    def key(self) -> AccountKey:
        return self.inner.key

    def request_challenges(self, _identifier: object) -> Deferred[_V1Resource]:
        return _started(self._request_challenges())

    async def _request_challenges(self) -> _V1Resource:
        self._order = await self.inner.create_order(self.host, self.replaces)
        authorization = await self.inner.fetch_authorization(self._order)
        if authorization.host != self.host:
            raise AcmeServerUnavailableError(
                f"the ACME server wants proof of {authorization.host}, and {self.host} was asked for"
            )
        return self._resource(authorization)

    def answer_challenge(self, challenge: _V1Challenge, _response: str) -> Deferred[None]:
        return _started(self._answer_challenge(challenge))

    async def _answer_challenge(self, challenge: _V1Challenge) -> None:
        if not challenge.is_done:
            await self.inner.start_challenge(AcmeChallenge(challenge.typ, challenge.url, challenge.token))

    def poll(self, resource: _V1Resource) -> Deferred[tuple[_V1Resource, float]]:
        return _started(self._poll(resource))

    async def _poll(self, resource: _V1Resource) -> tuple[_V1Resource, float]:
        authorization, pause = await self.inner.poll_authorization(resource.url, self._polls)
        self._polls += 1
        return self._resource(authorization), pause

    def request_issuance(self, request: Any) -> Deferred[_V1Certificate]:
        return _started(self._request_issuance(request.csr.public_bytes(Encoding.DER)))

    async def _request_issuance(self, csr: bytes) -> _V1Certificate:
        assert self._order is not None  # noqa: S101  # the service has requested challenges before
        key = self.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        await self.before_finalize(self._order.url, key)
        pem = await self.inner.finalize(self._order, csr)
        leaf, *chain = (each.public_bytes(Encoding.DER) for each in load_pem_x509_certificates(pem))
        return _V1Certificate(leaf, tuple(chain))

    def fetch_chain(self, certificate: _V1Certificate) -> Deferred[list[_V1Certificate]]:
        return succeed([_V1Certificate(each) for each in certificate.chain])

    def _resource(self, authorization: AcmeAuthorization) -> _V1Resource:
        if authorization.status == "valid":
            # It may list only challenges of kinds that we do not answer.
            done = _V1Challenge(self.kinds[0], "", "", is_done=True)
            return self._v1_resource(authorization, STATUS_VALID, done)
        if authorization.status not in _UNDECIDED:
            authorization.fail()
        chosen = authorization.choose_challenge(self.kinds)
        if not _TOKEN.fullmatch(chosen.token):
            raise AcmeServerUnavailableError("the ACME server's token has characters that are not allowed")
        challenge = _V1Challenge(chosen.kind, chosen.url, chosen.token)
        return self._v1_resource(authorization, STATUS_PENDING, challenge)

    @staticmethod
    def _v1_resource(authorization: AcmeAuthorization, status: Any, challenge: _V1Challenge) -> _V1Resource:
        body = _V1Authorization(_V1Identifier(authorization.host), status, ((challenge,),))
        return _V1Resource(body, authorization.url)


def _started(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)
