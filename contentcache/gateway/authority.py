"""
The certificate that whoever wants to believe this gateway has to trust, for ``GET /ca``.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from contentcache.config.model import ServerTLS
from contentcache.tls.files import read_certificates


def authority_of(tls: ServerTLS | None) -> bytes | None:
    """
    In PEM: the file ``ca``, else the last certificate of the chain that is served, which is the root where
    the operator has put it there, and in any case one that vouches for the leaf. ``None`` without TLS.

    :raises TLSFault: a file cannot be used.
    """
    if tls is None:
        return None
    found = read_certificates(tls.ca) if tls.ca is not None else read_certificates(tls.certificate)[-1:]
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found)
