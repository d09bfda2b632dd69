"""
Signed manifests of Docker's schema 1: their digest is not that of their bytes.

The digest is that of the payload, which is what was there before the signatures were put into it (libtrust's
"pretty" form of JWS; Docker image manifest v2, schema 1, "Signed manifests").
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Any, Final

from contentcache.core.digest import Digest
from contentcache.core.manifest_check import (
    SCHEMA_1_TYPES,
    SIGNED_SCHEMA_1,
    ManifestInvalid,
    check_manifest,
    essence,
)

#: Types by which registries send schema 1 though they do not name it: Docker's clients take
#: ``application/json`` and nothing for it (distribution, "Image Manifest V 2, Schema 1").
_UNNAMED: Final = frozenset({"application/json", None})


def digests_of(content: bytes, media_type: str | None, algorithm: str) -> Sequence[Digest]:
    """
    The digests that a manifest may have which came with this type: a signed one also has that of its payload.
    Where the type is not one of schema 1, the manifest itself has to say that it is of it.
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
    What the digest of a signed manifest is of; ``None`` where it has no signatures, or they do not agree.

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
    header: dict[str, Any] = json.loads(_decoded(protected))
    length = header["formatLength"]
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= len(manifest):
        raise ValueError(length)
    return manifest[:length] + _decoded(header["formatTail"])


def _decoded(text: str) -> bytes:
    """Base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
