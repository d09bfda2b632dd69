"""What is stored for each host: certificate, metadata, pending order, backoff; and their JSON documents."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeGuard

from attrs import asdict, evolve, field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from contentcache.acme.certificate import RenewalWindow, Validity
from contentcache.tls.files import Identity


@frozen
class CertificateMetadata:
    """
    What is known about a certificate besides its own content.

    ``server`` is the directory URL of the issuing server, and ``suggested`` its renewal window. ``ask_again``
    is the time of the next poll for that window, ``None`` where the server has no renewal information.
    ``since`` is the time of issuance if known; ``hurried`` counts the early renewals in a row before it.
    """

    server: str = ""
    suggested: RenewalWindow | None = None
    ask_again: float | None = None
    since: float | None = None
    hurried: int = 0

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> CertificateMetadata:
        """Parse a JSON document; malformed members are ignored."""
        server, window, hurried = (document.get(name) for name in ("server", "suggested", "hurried"))
        metadata = cls(
            server if isinstance(server, str) else "",
            ask_again=_time(document.get("ask_again")),
            since=_time(document.get("since")),
            hurried=hurried if isinstance(hurried, int) and hurried > 0 else 0,
        )
        if isinstance(window, list) and all(map(_is_time, window)) and len(window) == len(("start", "stop")):
            metadata = evolve(metadata, suggested=RenewalWindow(*map(float, window)))
        return metadata

    def document(self) -> Mapping[str, object]:
        """The JSON document."""
        window = None if self.suggested is None else [self.suggested.start, self.suggested.stop]
        return {**asdict(self), "suggested": window}


@frozen
class StoredCertificate:
    """A certificate with its key and metadata."""

    identity: Identity
    metadata: CertificateMetadata

    @property
    def validity(self) -> Validity:
        """The validity of the leaf."""
        return Validity.of(self.identity.chain[0])

    def leaf_pem(self) -> bytes:
        """The leaf in PEM."""
        return self.identity.chain[0].public_bytes(Encoding.PEM)

    def renewal_time(self) -> float:
        """
        When to renew, in seconds since 1970.

        The server's suggestion counts, but not right after issuance: following such a suggestion would order
        certificates until the server's rate limit.
        """
        validity, metadata = self.validity, self.metadata
        if metadata.suggested is None:
            return validity.renewal_time()
        since = validity.begins if metadata.since is None else metadata.since
        earliest = min(validity.renewal_time(), since + validity.min_use(metadata.hurried))
        return max(validity.renewal_time(metadata.suggested), earliest)


@frozen
class IssuedCertificate:
    """
    A certificate that was issued just now; ``pem`` has its key and chain.

    ``clock`` describes how the clock of this machine differs from the server's; it is empty where they agree.
    """

    pem: bytes
    certificate: StoredCertificate
    clock: str = ""


@frozen
class PendingOrder:
    """A finalized order without a stored certificate: its URL, private key in PEM and time of finalizing."""

    server: str
    url: str
    key: bytes = field(repr=False)
    since: float

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> PendingOrder | None:
        """Parse a JSON document; ``None`` where it is malformed."""
        server, url, key, since = (document.get(name) for name in ("server", "url", "key", "since"))
        if not (isinstance(server, str) and isinstance(url, str) and isinstance(key, str)):
            return None
        try:
            load_pem_private_key(key.encode("utf-8"), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        return cls(server, url, key.encode("utf-8"), since) if _is_time(since) else None

    def document(self) -> Mapping[str, object]:
        """The JSON document."""
        return {**asdict(self), "key": self.key.decode("ascii")}


@frozen
class BackoffRecord:
    """
    No request for a host before ``until``, in seconds since 1970, after so many ``failures`` in a row;
    ``says`` is the last error.
    """

    until: float
    failures: int
    says: str

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> BackoffRecord | None:
        """Parse a JSON document; ``None`` where it is malformed."""
        until, failures, says = (document.get(name) for name in ("until", "failures", "says"))
        if not (_is_time(until) and isinstance(failures, int) and isinstance(says, str)):
            return None
        return cls(until, max(1, failures), says)

    def document(self) -> Mapping[str, object]:
        """The JSON document."""
        return asdict(self)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _time(value: object) -> float | None:
    return float(value) if _is_time(value) else None
