"""The certificate that whoever wants to believe this gateway has to trust, for ``GET /ca``."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from contentcache.config.model import ServerTLS
from contentcache.tls.files import read_certificates


class Authority:
    """
    The file ``http.tls.ca``, else the last certificate of the chain that is served: the root where the
    operator has put it there, and in any case one that vouches for the leaf.

    :raises TLSFault: a file cannot be used.
    """

    def __init__(self, tls: ServerTLS | None) -> None:
        self._tls = tls
        #: In PEM; ``None`` without TLS.
        self.pem = _read(tls)

    def reload(self) -> None:
        """
        Read it anew.

        :raises TLSFault: it cannot be used, and stays as it was.
        """
        self.pem = _read(self._tls)


def _read(tls: ServerTLS | None) -> bytes | None:
    if tls is None:
        return None
    found = read_certificates(tls.ca) if tls.ca is not None else read_certificates(tls.certificate)[-1:]
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found)
