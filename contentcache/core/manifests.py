"""
Manifests as values: their checks, their media types, the digests of signed ones.

A body is checked before it is stored or becomes the manifest of a tag. A login page, the page of a firewall or
an error with status 200 is none. Any JSON object may be one, since the media types of vendors are not known
here; but the type that it declares has to agree with ``Content-Type`` (image-spec 1.1, "mediaType"). It is
parsed as strictly as registries do, with Go's ``encoding/json``.

The digest of a signed manifest of Docker's schema 1 is not that of its bytes but of its payload: what was there
before the signatures were put into it (libtrust's "pretty" form of JWS; Docker image manifest v2, schema 1,
"Signed manifests").
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from attrs import frozen

from contentcache.core.base64url import lenient_base64url_decode
from contentcache.core.digest import Digest
from contentcache.core.errors import UpstreamBroken

#: Levels of arrays and objects within each other. Manifests have about five.
DEEPEST: Final = 100

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
#: The digest of these is not that of their bytes, but of their payload.
SIGNED_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"
_SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
#: Types by which registries send signed manifests, in their own words or those of an unsigned one.
SCHEMA_1_TYPES: Final = frozenset({SIGNED_SCHEMA_1, _SCHEMA_1})

#: One without an end is taken to the end of the content, so that none is searched for within it.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS: Final = b"[]{}"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


class ManifestInvalid(UpstreamBroken):
    """Upstream sent a manifest that is no JSON object."""


@frozen
class CheckedManifest:
    """
    A body that is a JSON object: ``declared`` is its ``mediaType``, ``inferred`` the media type that its members
    suggest, ``has_version`` says that it has a ``schemaVersion``.
    """

    declared: str | None
    inferred: str | None
    has_version: bool = False

    @property
    def is_recognized(self) -> bool:
        """Whether it has a ``mediaType`` or a ``schemaVersion``, as every manifest of a registered type has."""
        return self.declared is not None or self.has_version

    def agrees(self, content_type: str | None) -> bool:
        """
        Whether a ``Content-Type`` is one that the manifest may have: then it may be stored under it.

        >>> CheckedManifest("a/b", None).agrees("A/B; charset=utf-8")
        True
        """
        said = essence(content_type)
        return self.declared is None or said is None or said == essence(self.declared)

    def media_type(self, *, get: str | None, head: str | None = None) -> str | None:
        """
        The media type to serve it with: what it declares, what ``GET`` said, what ``HEAD`` said if that is
        JSON, what its members suggest, and last what ``HEAD`` said.

        >>> CheckedManifest(None, "application/i+json").media_type(get=None, head="text/plain")
        'application/i+json'
        """
        is_json = (essence(head) or "").endswith(("+json", "+prettyjws"))
        plausible = head if is_json else None
        return self.declared or get or plausible or self.inferred or head


def essence(content_type: str | None) -> str | None:
    """
    A media type without its parameters, in lower case; ``None`` where there is none.

    >>> essence("Text/HTML; charset=utf-8"), essence(" ")
    ('text/html', None)
    """
    return (content_type or "").partition(";")[0].strip().lower() or None


def is_manifest_type(content_type: str | None) -> bool:
    """
    Whether a ``Content-Type`` is one of manifests, whoever has defined it.

    >>> is_manifest_type("application/vnd.oci.image.index.v1+json"), is_manifest_type("application/json")
    (True, False)
    """
    said = essence(content_type) or ""
    return said.startswith("application/vnd.") and said.endswith(("+json", "+prettyjws"))


def check_manifest(content: bytes) -> CheckedManifest:
    """
    Read a body as a manifest, in time that is linear in its size.

    :raises ManifestInvalid: it is no JSON object in UTF-8: HTML, a byte order mark, ``NaN``, two members
        ``mediaType``, more than :data:`DEEPEST` levels, bytes after its end.

    >>> check_manifest(b'{"schemaVersion":2,"mediaType":"a/b"}').declared
    'a/b'
    >>> check_manifest(b"<html></html>")
    Traceback (most recent call last):
    ...
    contentcache.core.manifests.ManifestInvalid: upstream sent something else than JSON as a manifest
    """
    if _is_deep(content):
        raise ManifestInvalid(f"upstream sent a manifest of more than {DEEPEST} levels")
    try:
        value: Any = json.loads(
            content.decode("utf-8"),
            # Numbers are not needed, and may be as long as the whole body.
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid("upstream sent something else than JSON as a manifest") from error
    if not isinstance(value, dict):
        raise ManifestInvalid("upstream sent JSON as a manifest that is not an object")
    declared = value.get("mediaType")
    if declared is not None and type(declared) is not str:
        raise ManifestInvalid("upstream sent a manifest whose mediaType is not a string")
    return CheckedManifest(declared or None, _infer(value), "schemaVersion" in value)


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def _is_deep(content: bytes) -> bool:
    """
    Whether there are more than :data:`DEEPEST` levels. What is not balanced is left to the reader of JSON.

    >>> _is_deep(b"[" * 200 + b"]" * 200), _is_deep(b'{"a": "[[["}')
    (True, False)
    """
    brackets = _STRING.sub(b"", content).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEEPEST):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    # Whatever cannot be paired off is too deep or not JSON: the first must not be parsed, the second may be.
    return len(brackets) > DEEPEST or b"[]" in brackets


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members) and sum(name == "mediaType" for name, _ in members) > 1:
        raise ValueError("mediaType is given twice")
    return found


def _infer(manifest: dict[str, Any]) -> str | None:
    """The media type of a manifest that declares none, as image-spec 1.0 allowed."""
    if manifest.get("schemaVersion") == "1":
        return SIGNED_SCHEMA_1 if "signatures" in manifest else _SCHEMA_1
    if "manifests" in manifest:
        return OCI_INDEX
    if "layers" in manifest and "config" in manifest:
        return OCI_MANIFEST
    return None


#: Every manifest type in use. For a client that accepts anything (curl, a script) these are named upstream, since
#: registries read ``*/*`` as "only what was known in 2015".
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.artifact.manifest.v1+json",
)
_ANYTHING: Final = "*/*"
_LONGEST_ACCEPT: Final = 256


def upstream_accept(values: Sequence[str]) -> Sequence[str]:
    """
    The values of ``Accept`` to send upstream: the client's own, unless it accepts anything (RFC 9110 §12.5.1).

    >>> upstream_accept(["application/json, */*"])
    ('application/json, */*',)
    >>> upstream_accept([])[-1]
    '*/*'
    """
    kinds = {kind.partition(";")[0].strip().lower() for value in values for kind in value.split(",")}
    if kinds <= {_ANYTHING, ""}:
        return (*MANIFEST_TYPES, _ANYTHING)
    return tuple(values)


def normalize_accept(values: Sequence[str]) -> str:
    """
    One spelling for all values of ``Accept`` that mean the same, short enough for a key.

    >>> normalize_accept(["b/c;q=0.5,  A/b"]) == normalize_accept(["a/b", "b/c; q=0.5"])
    True
    """
    kinds = {"".join(kind.split()).lower() for value in values for kind in value.split(",")}
    text = ",".join(sorted(kinds - {""}))
    if len(text) > _LONGEST_ACCEPT:
        # No other key begins with a comma: no client can send the hash instead of the types.
        return "," + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text


#: Types by which registries send schema 1 though they do not name it: Docker's clients take
#: ``application/json`` and nothing for it (distribution, "Image Manifest V 2, Schema 1").
_UNNAMED: Final = frozenset({"application/json", None})


def manifest_digests(content: bytes, media_type: str | None, algorithm: str) -> Sequence[Digest]:
    """
    The digests of a manifest of a media type: a signed one also has that of its payload. If the type is not one
    of schema 1, the manifest itself has to say that it is one.
    """
    said = essence(media_type)
    payload = None
    if said in SCHEMA_1_TYPES or (said in _UNNAMED and _is_signed_schema_1(content)):
        payload = signed_payload(content)
    return [Digest.of(each, algorithm) for each in (content, payload) if each is not None]


def _is_signed_schema_1(content: bytes) -> bool:
    try:
        checked = check_manifest(content)
    except ManifestInvalid:
        return False
    return checked.inferred == SIGNED_SCHEMA_1 and checked.declared in {None, *SCHEMA_1_TYPES}


def signed_payload(manifest: bytes) -> bytes | None:
    """
    The payload of a signed manifest, which its digest is of; ``None`` without signatures, or if they disagree.

    >>> signed_payload(b"{}") is None
    True
    """
    try:
        signatures = json.loads(manifest)["signatures"]
        payloads = {_payload(manifest, signature["protected"]) for signature in signatures}
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return None
    return payloads.pop() if len(payloads) == 1 else None


def _payload(manifest: bytes, protected: str) -> bytes:
    header: dict[str, Any] = json.loads(lenient_base64url_decode(protected))
    length = header["formatLength"]
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= len(manifest):
        raise ValueError(length)
    return manifest[:length] + lenient_base64url_decode(header["formatTail"])
