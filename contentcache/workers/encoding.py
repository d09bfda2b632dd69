"""
Values as the processes of one daemon send them: as lines of JSON.

``$type`` says what an object is where JSON has no type for it. What is sent contains credentials and keys, and is
never logged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contentcache.admin.status import DownloadStatus, LoggedError, ProcessStatus, UpstreamStatus
from contentcache.app.stopping import CutOff
from contentcache.core import errors
from contentcache.core.errors import CacheError, OriginRefused, UpstreamUnavailable
from contentcache.core.host_health import HostHealth
from contentcache.delivery import shared_download
from contentcache.delivery.authorization import Revocation
from contentcache.server.debug_site import HealthCheck
from contentcache.storage import interfaces
from contentcache.tls.files import Identity, identity_from_pem
from contentcache.workers import messages

_TYPE: Final = "$type"
_MAPPING: Final = "mapping"

_STATUS: Final = (ProcessStatus, DownloadStatus, UpstreamStatus, LoggedError, HealthCheck, HostHealth)

#: Frozen classes whose fields are sent as they are: the messages, and what they and calls of the index contain.
_CLASSES: Final[Mapping[str, type]] = {
    kind.__name__: kind
    for kind in (*vars(messages).values(), *vars(interfaces).values(), Revocation, CutOff, *_STATUS)
    if isinstance(kind, type) and attrs.has(kind) and kind is not Identity
}
_FIELDS: Final[Mapping[type, Sequence[str]]] = {
    kind: [field.name for field in attrs.fields(kind)] for kind in _CLASSES.values()
}

#: Errors by their names. Any other is sent as the nearest superclass that is here.
_ERRORS: Final[Mapping[str, type[CacheError]]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), *vars(shared_download).values())
    if isinstance(kind, type) and issubclass(kind, CacheError) and kind is not CacheError
}


def encode(value: Any) -> bytes:
    """
    A value as one line of JSON. Tuples become lists.

    >>> from contentcache.core.digest import Digest
    >>> encode(messages.BlobEvicted(Digest.of(b"")))[:43]
    b'{"$type":"BlobEvicted","digest":{"$type":"D'
    >>> decode(encode([1, b"x", pairs({Digest.of(b""): 1.5})])) == [1, b"x", {Digest.of(b""): 1.5}]
    True

    :raises TypeError: it contains something that cannot be sent.
    """
    return _ENCODER.encode(value).encode("ascii")


def decode(line: bytes) -> Any:
    """The value that was encoded."""
    return _DECODER.decode(line.decode("ascii"))


def pairs(mapping: Mapping[Any, Any]) -> Any:
    """A mapping in a form that :func:`encode` accepts whatever its keys are."""
    return {_TYPE: _MAPPING, "value": list(mapping.items())}


def _encode_object(value: object) -> dict[str, Any]:
    fields = _FIELDS.get(type(value))
    if fields is not None:
        return {_TYPE: type(value).__name__, **{field: getattr(value, field) for field in fields}}
    for name, (kind, encode_one, _) in _SPECIAL.items():
        if isinstance(value, kind):
            return {_TYPE: name, "value": encode_one(value)}
    raise TypeError(f"a {type(value).__name__} cannot be sent to another process")


def _decode_object(fields: dict[str, Any]) -> Any:
    name = fields.pop(_TYPE, None)
    if name is None:
        return fields
    kind = _CLASSES.get(name)
    if kind is not None:
        return kind(**fields)
    return dict(fields["value"]) if name == _MAPPING else _SPECIAL[name][2](fields["value"])


def _encode_error(error: CacheError) -> dict[str, Any]:
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), None)
    # Names of headers and the detail are an upstream's: they must never be taken for a type.
    fields: dict[str, Any] = {
        "name": name,
        "message": error.message,
        "headers": list(error.headers.items()),
        "detail": json.dumps(error.detail),
    }
    if isinstance(error, OriginRefused):
        fields |= {"status": error.status, "body": error.body}
    return fields


def _decode_error(fields: Mapping[str, Any]) -> CacheError:
    kind = _ERRORS.get(fields["name"] or "", UpstreamUnavailable)
    # In JSON several lines of a header are a list.
    headers = {n: value if isinstance(value, str) else tuple(value) for n, value in fields["headers"]}
    if issubclass(kind, OriginRefused):
        return OriginRefused(fields["status"], headers, fields["body"])
    return kind(fields["message"], detail=json.loads(fields["detail"]), headers=headers)


def _encode_identity(identity: Identity) -> str:
    chain = [certificate.public_bytes(Encoding.PEM) for certificate in identity.chain]
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return b"".join((*chain, key)).decode("ascii")


#: What is not sent by its fields: name, class, and both ways.
_SPECIAL: Final[Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "bytes": (bytes, lambda data: base64.b64encode(data).decode("ascii"), base64.b64decode),
    "error": (CacheError, _encode_error, _decode_error),
    "identity": (
        Identity,
        _encode_identity,
        lambda pem: identity_from_pem("the certificate", pem.encode("ascii")),
    ),
}

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), default=_encode_object)
_DECODER: Final = json.JSONDecoder(object_hook=_decode_object)
