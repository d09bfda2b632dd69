"""A token server as docker-registry wants one (distribution's "Token Authentication Specification")."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.real.certificates import Authority, Certificate
from tests.real.programs import Case, place

#: Who asks without credentials.
ANONYMOUS = ""


@frozen
class TokenRequest:
    """
    One question to the token server, and the status that it got. ``account`` is the user's
    name, :data:`ANONYMOUS` for nobody's.
    """

    account: str
    scopes: tuple[str, ...]
    status: int


class TokenServer:
    """Accounts, what each may do, and signed tokens that say so; all of it may change at any time."""

    issuer = "tests"
    service = "registry"

    def __init__(self, case: Case, *, users: Mapping[str, str] | None = None, life: int = 300) -> None:
        self.users = dict(users or {})
        #: Seconds for which a token is good (docker-registry adds 60 of leeway).
        self.life = life
        self.requests: list[TokenRequest] = []
        self._rules: dict[str, dict[str, set[str]]] = {}
        folder = place(case)
        self._leaf: Certificate = Authority(folder, "Token Authority").leaf("tokens")
        self._key, self._kid = _signer(self._leaf)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _face(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        case.addCleanup(self.stop)

    @property
    def realm(self) -> str:
        """The URL that a challenge names."""
        return f"http://127.0.0.1:{self._server.server_port}/token"

    @property
    def bundle(self) -> Path:
        """The file for ``auth.token.rootcertbundle``."""
        return self._leaf.certificate

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()

    def allow(self, account: str, repository: str, *actions: str) -> None:
        """Let ``account`` do ``actions`` (``pull`` if none are given) in repositories that match a glob."""
        self._rules.setdefault(account, {}).setdefault(repository, set()).update(actions or ("pull",))

    def revoke(self, account: str, repository: str | None = None) -> None:
        """Take a rule back, or all rules of an account. Tokens that are out live on to their end."""
        if repository is None:
            self._rules.pop(account, None)
        else:
            self._rules.get(account, {}).pop(repository, None)

    def close_account(self, account: str) -> None:
        """The account is unknown from now on."""
        self.users.pop(account, None)
        self.revoke(account)

    def grant(self, account: str, scopes: Iterable[str]) -> list[dict[str, object]]:
        """The part of ``scopes`` (``repository:name:pull,push``) that ``account`` may have."""
        access: list[dict[str, object]] = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed: set[str] = set()
            for pattern, may in self._rules.get(account, {}).items():
                if fnmatch.fnmatchcase(name, pattern):
                    allowed |= may
            given = sorted(set(actions.split(",")) & allowed)
            if kind in {"repository", "registry"} and given:
                access.append({"type": kind, "name": name, "actions": given})
        return access

    def token(self, account: str, access: Sequence[Mapping[str, object]]) -> str:
        """A signed token for exactly ``access``, whatever the rules say."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": account,
            "aud": self.service,
            "exp": now + self.life,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": list(access),
        }
        signed = b".".join(
            _encoded(json.dumps(part).encode())
            for part in ({"typ": "JWT", "alg": "ES256", "kid": self._kid}, claims)
        )
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return (signed + b"." + _encoded(signature)).decode()

    def answer(self, account: str, password: str | None, scopes: tuple[str, ...]) -> tuple[int, object]:
        """Status and JSON body for a question."""
        known = account == ANONYMOUS if password is None else self.users.get(account) == password
        if not known:
            self.requests.append(TokenRequest(account, scopes, 401))
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}
        self.requests.append(TokenRequest(account, scopes, 200))
        token = self.token(account, self.grant(account, scopes))
        return 200, {"token": token, "access_token": token, "expires_in": self.life}


def _face(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Face(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            self._tell(*server.answer(*self._credentials(), _scopes(query)))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            form = urllib.parse.parse_qs(self.rfile.read(length).decode())
            account, password = self._credentials()
            if "username" in form:
                account, password = form["username"][0], form.get("password", [""])[0]
            self._tell(*server.answer(account, password, _scopes(form)))

        def _credentials(self) -> tuple[str, str | None]:
            scheme, _, value = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "basic":
                return ANONYMOUS, None
            account, _, password = base64.b64decode(value).decode().partition(":")
            return account, password

        def _tell(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Face


def _scopes(query: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(scope for value in query.get("scope", ()) for scope in value.split())


def _encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _signer(leaf: Certificate) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """The key, and its id as libtrust makes it: 240 bits of the SHA-256 of the public key, in base 32."""
    key = serialization.load_pem_private_key(leaf.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = x509.load_pem_x509_certificate(leaf.certificate.read_bytes()).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return key, ":".join(text[start : start + 4] for start in range(0, len(text), 4))
