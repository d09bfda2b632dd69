"""
A chain of certificates in a token's header (``x5c``), followed to one that the operator trusts.

Nothing is fetched. As in the registry, what a certificate is meant for does not matter, and every certificate
of the bundle is an end of the chain, one that is no authority for itself only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, cast

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import Certificate, load_der_x509_certificate
from OpenSSL import crypto

from contentcache.auth.signatures import PublicKey, is_usable

#: A leaf, and as many authorities below the one that is trusted as anybody has.
_LONGEST: Final = 8
_WEAK: Final = (hashes.MD5, hashes.SHA1)


class ChainRefused(ValueError):
    """
    The chain leads nowhere. The message is the end of a sentence about the token.
    """


@frozen
class Chained:
    """
    The key that a good chain vouches for, until its first certificate ends (seconds since the epoch).
    """

    public: PublicKey
    ends: float


def follow(x5c: object, roots: Sequence[Certificate], now: float) -> Chained:
    """
    Verify a chain, the leaf first (RFC 7515 §4.1.6), at ``now`` (seconds since the epoch).

    :raises ChainRefused: it cannot be read, is not valid now, or ends at nobody who is trusted.
    """
    try:
        leaf, *others = _read(x5c)
        verified = _verify(leaf, others, roots, now)
        key = leaf.public_key()
    except (crypto.X509StoreContextError, crypto.Error) as error:
        raise ChainRefused(f"has a chain of certificates that is not trusted: {error}") from None
    except (ValueError, TypeError, OverflowError, OSError, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, ChainRefused) else ChainRefused("has a damaged 'x5c'") from None
    if not is_usable(key):
        raise ChainRefused("has a certificate whose key is of no use for tokens")
    ends = min(certificate.not_valid_after_utc.timestamp() for certificate in verified)
    return Chained(cast("PublicKey", key), ends)


def _read(x5c: object) -> list[Certificate]:
    if not isinstance(x5c, list) or not 0 < len(x5c) <= _LONGEST:
        raise ChainRefused(f"has an 'x5c' that is no list of 1 to {_LONGEST} certificates")
    try:
        return [load_der_x509_certificate(base64.b64decode(entry, validate=True)) for entry in x5c]
    except (binascii.Error, ValueError, TypeError):
        raise ChainRefused("has a damaged certificate in its 'x5c'") from None


def _verify(
    leaf: Certificate, others: Sequence[Certificate], roots: Sequence[Certificate], now: float
) -> list[Certificate]:
    """
    The whole chain, its trusted end included.
    """
    store = crypto.X509Store()
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    # Any certificate of the bundle ends a chain, one that is not signed by itself too.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(datetime.fromtimestamp(now, UTC))
    untrusted = [crypto.X509.from_cryptography(other) for other in others]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), untrusted)
    verified = [certificate.to_cryptography() for certificate in context.get_verified_chain()]
    # The last one is trusted for what it is; the others only for their signatures.
    if any(isinstance(certificate.signature_hash_algorithm, _WEAK) for certificate in verified[:-1]):
        raise ChainRefused("has a certificate that is signed over a hash that is too weak")
    return verified
