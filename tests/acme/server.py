"""An ACME server in memory, as an agent: it verifies requests, issues certificates, and misbehaves."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import sha256
from typing import Any

from attrs import define, field
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionRefusedError as NobodyThere
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseNeverReceived
from twisted.web.http_headers import Headers

from tests.signer import b64

BASE = "https://acme.example"
DIRECTORY = f"{BASE}/dir"


def decoded(text: str) -> bytes:
    """base64url without padding."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Response:
    """A response of an agent."""

    length: object = None

    def __init__(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.code = code
        self.headers = Headers({name: [value] for name, value in headers.items()})
        self._body = body

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(self)
        protocol.dataReceived(self._body)
        protocol.connectionLost(Failure(ResponseDone()))

    def stopProducing(self) -> None:
        """The whole body is delivered already."""


class Trickle(Response):
    """A response that never ends: a byte for each second of ``timer``."""

    def __init__(self, code: int, headers: dict[str, str], timer: Any) -> None:
        super().__init__(code, headers, b" ")
        self._timer = timer
        self._next: Any = None

    def deliverBody(self, protocol: Any) -> None:
        protocol.makeConnection(self)
        self._send(protocol)

    def _send(self, protocol: Any) -> None:
        self._next = self._timer.callLater(1.0, self._send, protocol)
        protocol.dataReceived(self._body)

    def stopProducing(self) -> None:
        self._next.cancel()


@define
class Body:
    """A consumer of a request's body."""

    content: bytes = b""

    def write(self, data: bytes) -> None:
        self.content += data


class Bad(Exception):
    """A problem document instead of an answer."""

    def __init__(self, kind: str, detail: str = "no", status: int = 400, **headers: str) -> None:
        super().__init__(kind)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.document = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status}


@define
class Acme:
    """
    The server. ``wall`` is its clock. ``validate(kind, host, token, thumbprint)`` raises ``Bad`` where it
    does not find the expected answer.

    Certificates: valid from ``begins`` seconds after issuance, for ``lifetime`` seconds; ``mistaken`` are the
    key and the hosts that are certified instead; a chain has ``copies`` certificates.

    Requests: ``troubles`` are raised once each by a path that begins so. ``is_away`` refuses connections.
    With ``hangs`` nothing is answered, with ``hangs_at`` not these paths; ``trickles_at`` sends a byte for
    each second of ``timer``; the responses of ``loses_at`` are lost, ``losses`` times, after the request was
    processed. ``refused_nonces`` are refused before one is accepted.

    Progress: an authorization is decided after ``authorization_polls`` polls, a certificate issued after
    ``certificate_polls``. ``suggested`` is the renewal window in seconds from now, unless
    ``odd_suggestion`` is sent instead. ``eab`` is the account's key for external account binding.
    """

    wall: Callable[[], float]
    validate: Callable[[str, str, str, str], None]
    lifetime: float = 90 * 86400.0
    begins: float = 0.0
    copies: int = 1
    mistaken: tuple[Any, str] = (None, "")
    offered: tuple[str, ...] = ("dns-01", "http-01", "tls-alpn-01")
    is_away: bool = False
    hangs: bool = False
    hangs_at: str = ""
    trickles_at: str = ""
    timer: Any = None
    loses_at: str = ""
    losses: int = 0
    refused_nonces: int = 0
    suggested: tuple[float, float] | None = None
    odd_suggestion: bytes = b""
    eab: tuple[str, bytes] | None = None
    troubles: list[tuple[str, Bad]] = field(factory=list)
    asked: list[str] = field(factory=list)
    payloads: dict[str, Any] = field(factory=dict)
    certificate_polls: int = 1
    authorization_polls: int = 0
    _nonces: set[str] = field(factory=set)
    _keys: dict[str, Any] = field(factory=dict)
    _orders: dict[str, dict[str, Any]] = field(factory=dict)
    _authorizations: dict[str, dict[str, Any]] = field(factory=dict)
    _certificates: dict[str, bytes] = field(factory=dict)
    _number: int = 0
    _ca_key: Any = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    # IAgent.

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        path = uri.decode().removeprefix(BASE)
        self.asked.append(f"{method.decode()} {path}")
        if self.is_away:
            return fail(NobodyThere())
        if self.hangs or (self.hangs_at and path.startswith(self.hangs_at)):
            return Deferred()
        body = Body()
        if bodyProducer is not None:
            bodyProducer.startProducing(body)
        try:
            status, more, content = self._answer(path, body.content)
        except Bad as bad:
            more = {"Content-Type": "application/problem+json", **bad.headers}
            status, content = bad.status, json.dumps(bad.document).encode()
        nonce = f"n{self._next()}"
        self._nonces.add(nonce)
        date = format_datetime(datetime.fromtimestamp(self.wall(), UTC), usegmt=True)
        if self.losses and self.loses_at and path.startswith(self.loses_at):
            self.losses -= 1
            return fail(ResponseNeverReceived([Failure(ConnectionDone())]))
        more = {"Replay-Nonce": nonce, "Date": date, **more}
        if self.trickles_at and path.startswith(self.trickles_at):
            return succeed(Trickle(status, more, self.timer))
        return succeed(Response(status, more, content))

    def count(self, words: str) -> int:
        """The number of requests that contain these words."""
        return sum(words in line for line in self.asked)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        for trouble in self.troubles:
            if path.startswith(trouble[0]):
                self.troubles.remove(trouble)
                raise trouble[1]
        if path == "/dir":
            names = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
            if self.suggested is not None:
                names["renewalInfo"] = "ari"
            return 200, {}, json.dumps({name: f"{BASE}/{each}" for name, each in names.items()}).encode()
        if path == "/nonce":
            return 200, {}, b""
        if path.startswith("/ari/") and self.suggested is not None:
            start, stop = (
                datetime.fromtimestamp(self.wall() + each, UTC).isoformat() for each in self.suggested
            )
            window = {"suggestedWindow": {"start": start, "end": stop}}
            told = self.odd_suggestion or json.dumps(window).encode()
            return 200, {"Retry-After": "3600"}, told
        head, payload = self._verified(path, body)
        self.payloads[path] = payload
        name = path.split("/")[1]
        status, more, document = getattr(self, f"_{name}")(path, head, payload)
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        return status, more, content

    def _verified(self, path: str, body: bytes) -> tuple[dict[str, Any], Any]:
        """The protected header and the payload of a request whose signature, nonce and URL are right."""
        jws = json.loads(body)
        head = json.loads(decoded(jws["protected"]))
        if head["nonce"] not in self._nonces or self.refused_nonces:
            self.refused_nonces = max(0, self.refused_nonces - 1)
            raise Bad("badNonce")
        self._nonces.remove(head["nonce"])
        if head["url"] != BASE + path:
            raise Bad("unauthorized", "the URL is not this one")
        if "kid" in head and head["kid"] not in self._keys:
            raise Bad("accountDoesNotExist")
        jwk = self._keys[head["kid"]] if "kid" in head else head["jwk"]
        r, s = (int.from_bytes(part, "big") for part in _halves(decoded(jws["signature"])))
        _public(jwk).verify(
            encode_dss_signature(r, s), f"{jws['protected']}.{jws['payload']}".encode(), ec.ECDSA(SHA256())
        )
        return head, json.loads(decoded(jws["payload"])) if jws["payload"] else None

    # Resources.

    def _account(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        for url, jwk in self._keys.items():
            if jwk == head["jwk"]:
                return 200, {"Location": url}, {"status": "valid"}
        if self.eab is not None:
            self._check_binding(payload.get("externalAccountBinding"), head["jwk"])
        url = f"{BASE}/acct/{self._next()}"
        self._keys[url] = head["jwk"]
        return 201, {"Location": url}, {"status": "valid"}

    def _check_binding(self, binding: Any, jwk: Any) -> None:
        if binding is None or self.eab is None:
            raise Bad("externalAccountRequired", status=403)
        kid, key = self.eab
        mac = HMAC(key, SHA256())
        mac.update(f"{binding['protected']}.{binding['payload']}".encode())
        try:
            mac.verify(decoded(binding["signature"]))
        except InvalidSignature:
            raise Bad("unauthorized", "the MAC of the binding is wrong", 403) from None
        head = {"alg": "HS256", "kid": kid, "url": f"{BASE}/account"}
        assert json.loads(decoded(binding["protected"])) == head
        assert json.loads(decoded(binding["payload"])) == jwk

    def _order(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        if payload is None:
            order = self._orders[path]
            if order["status"] == "processing":
                order["polls"] -= 1
                if not order["polls"]:
                    order["status"] = "valid"
            return 200, {"Retry-After": "1"}, order
        if "notAfter" in payload and self.lifetime > 3600:
            raise Bad("malformed", "no notAfter")
        number, host = self._next(), payload["identifiers"][0]["value"]
        authorization = f"{BASE}/authz/{number}"
        self._authorizations[f"/authz/{number}"] = {
            "status": "pending",
            "identifier": {"type": "dns", "value": host},
            "challenges": [
                {
                    "type": kind,
                    "url": f"{BASE}/chall/{number}/{kind}",
                    "token": f"token-{number}",
                    "status": "pending",
                }
                for kind in self.offered
            ],
        }
        order = {
            "status": "pending",
            "authorizations": [authorization],
            "finalize": f"{BASE}/finalize/{number}",
            "host": host,
            "polls": self.certificate_polls,
        }
        self._orders[f"/order/{number}"] = order
        return 201, {"Location": f"{BASE}/order/{number}"}, order

    def _authz(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        if payload is None and self._authorizations[path]["status"] == "valid" and self.authorization_polls:
            self.authorization_polls -= 1
            return 200, {}, {**self._authorizations[path], "status": "pending"}
        return 200, {}, self._authorizations[path]

    def _chall(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        _, _, number, kind = path.split("/")
        authorization = self._authorizations[f"/authz/{number}"]
        [challenge] = [each for each in authorization["challenges"] if each["type"] == kind]
        jwk = self._keys[head["kid"]]
        ordered = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        thumbprint = b64(sha256(json.dumps(ordered, separators=(",", ":")).encode()).digest())
        try:
            self.validate(kind, authorization["identifier"]["value"], challenge["token"], thumbprint)
        except Bad as bad:
            authorization["status"] = challenge["status"] = "invalid"
            challenge["error"] = bad.document
            self._orders[f"/order/{number}"]["status"] = "invalid"
        else:
            authorization["status"] = challenge["status"] = "valid"
            self._orders[f"/order/{number}"]["status"] = "ready"
        return 200, {}, challenge

    def _finalize(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        number = path.split("/")[2]
        order = self._orders[f"/order/{number}"]
        if order["status"] != "ready":
            raise Bad("orderNotReady", status=403)
        request = x509.load_der_x509_csr(decoded(payload["csr"]))
        self._certificates[f"/cert/{number}"] = self.signed(
            self.mistaken[0] or request.public_key(), self.mistaken[1] or order["host"]
        )
        order.update(status="processing", certificate=f"{BASE}/cert/{number}")
        return 200, {"Location": f"{BASE}/order/{number}"}, order

    def _cert(self, path: str, head: Any, payload: Any) -> tuple[int, dict[str, str], Any]:
        return 200, {}, self._certificates[path]

    def signed(self, key: Any, host: str) -> bytes:
        """A chain of one for a public key, in PEM."""
        begins = datetime.fromtimestamp(self.wall() + self.begins, UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Memory CA")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + timedelta(seconds=self.lifetime))
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in host.split()]), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
            .sign(self._ca_key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM) * self.copies


def _halves(signature: bytes) -> tuple[bytes, bytes]:
    return signature[:32], signature[32:]


def _public(jwk: Any) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(decoded(jwk[name]), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
