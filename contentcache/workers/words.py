"""Questions, errors and certificates in the form in which they go from one process to another: as JSON values."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contentcache.core import errors
from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, OriginRefused, UpstreamUnavailable
from contentcache.core.routes import Content
from contentcache.delivery import shared_download
from contentcache.delivery.access import Revocation
from contentcache.delivery.subscribers import ContentRequest
from contentcache.tls.files import Identity, identity_in
from contentcache.upstream.registry import Registry

#: Errors by their names. One of a kind that is not here goes as the nearest kind that is.
_ERRORS: Final[Mapping[str, type[CacheError]]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), *vars(shared_download).values())
    if isinstance(kind, type) and issubclass(kind, CacheError) and kind is not CacheError
}


def asking_in_words(asking: ContentRequest) -> dict[str, Any]:
    """A client's question, its credential too."""
    credential, content = asking.credential, asking.content
    return {
        "origin": asking.registry.upstream.origin,
        "repository": content.repository,
        "kind": content.kind,
        "digest": str(content.digest),
        "authorization": credential.authorization,
        "own": credential.own,
        "signed": credential.signed,
        "vouched": credential.locally_authorized,
        "accept": list(asking.accept),
        "via": asking.via,
    }


def asking_of(words: Mapping[str, Any], registry_of: Callable[[str], Registry]) -> ContentRequest:
    """The question again. ``registry_of`` has the registry of an origin."""
    return ContentRequest(
        registry_of(words["origin"]),
        Content(words["repository"], words["kind"], Digest.parse(words["digest"])),
        Credential(words["authorization"], words["own"], words["signed"], words["vouched"]),
        tuple(words["accept"]),
        words["via"],
    )


def error_in_words(error: CacheError) -> dict[str, Any]:
    """An error as a value."""
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), None)
    words = {"name": name, "message": error.message, "headers": dict(error.headers), "detail": error.detail}
    if isinstance(error, OriginRefused):
        words |= {"status": error.status, "body": base64.b64encode(error.body).decode("ascii")}
    return words


def error_of(words: Mapping[str, Any]) -> CacheError:
    """
    The error again.

    >>> error_of(error_in_words(OriginRefused(404, {"A": "b"}, b"none"))).status
    404
    """
    kind = _ERRORS.get(words["name"] or "", UpstreamUnavailable)
    # In JSON several lines of a header are a list.
    headers = {n: value if isinstance(value, str) else tuple(value) for n, value in words["headers"].items()}
    if issubclass(kind, OriginRefused):
        return OriginRefused(words["status"], headers, base64.b64decode(words["body"]))
    return kind(words["message"], detail=words["detail"], headers=headers)


def revocation_in_words(revocation: Revocation) -> dict[str, Any]:
    """A revocation as a value."""
    return {
        "key": revocation.key.hex(),
        "asked": revocation.asked,
        "is_identity": revocation.is_identity,
    }


def revocation_of(words: Mapping[str, Any]) -> Revocation:
    """
    The revocation again.

    >>> revocation_of(revocation_in_words(Revocation(b"key", 5.25, is_identity=True)))
    Revocation(key=b'key', asked=5.25, is_identity=True)
    """
    return Revocation(bytes.fromhex(words["key"]), words["asked"], words["is_identity"])


def identity_in_words(identity: Identity) -> str:
    """A certificate with its chain and its key, in PEM."""
    chain = [certificate.public_bytes(Encoding.PEM) for certificate in identity.chain]
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join((*chain, key)).decode("ascii")


def identity_of(words: str) -> Identity:
    """The same again."""
    return identity_in("the parent's certificate", words.encode("ascii"))
