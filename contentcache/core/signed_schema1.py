"""
Signed manifests of Docker's schema 1: their digest is not that of their bytes.

The digest is that of the payload, which is what was there before the signatures were put into it (libtrust's
"pretty" form of JWS; Docker image manifest v2, schema 1, "Signed manifests").
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from typing import Any


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
