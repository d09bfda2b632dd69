"""
The directory with the account's key and the certificates, in PEM for other programs too.

``<host>.pem`` has key, certificate and chain in one file, so that they always match; ``<host>.json`` its
metadata; ``<host>.order.json`` a pending order and its key; ``<host>.wait.json`` the backoff;
``account/key.pem`` the account's key, and ``account/urls.json`` its URL at each server. Everything here
blocks: call it in a thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contentcache.acme.account import AccountKey, AccountKeyError
from contentcache.acme.certificate import format_names, matches_host
from contentcache.acme.errors import CertificateStoreError, CertificateStoreInUseError
from contentcache.acme.records import BackoffRecord, CertificateMetadata, PendingOrder, StoredCertificate
from contentcache.acme.store_files import (
    TEMPORARY_SUFFIX,
    probe,
    quarantine,
    read,
    remove_permissions,
    store_error,
    write,
)
from contentcache.core.ports import Clock
from contentcache.persist.file_lock import FileLock, FileLockedError, process_name
from contentcache.tls.files import Identity, TLSConfigurationError, identity_from_pem, names_of


class CertificateStore:
    """The directory and its files, readable by the daemon's account alone."""

    def __init__(self, folder: str, wall: Clock) -> None:
        self._folder = Path(folder)
        self._account = self._folder / "account"
        self._lock = FileLock(self._folder / "lock", mode=0o600, allow_unsupported=True)
        self._wall = wall

    def acquire(self) -> None:
        """
        Lock the directory for this process until :meth:`release`.

        :raises CertificateStoreInUseError: another process has locked it.
        :raises CertificateStoreError: it cannot be created or written.
        """
        if self._lock.held:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            self._account.mkdir(mode=0o700, exist_ok=True)
            # A process that was killed has left temporary files; with the lock nobody writes them now.
            for folder in (self._folder, self._account):
                for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
                    path.unlink()
        except FileLockedError as error:
            raise CertificateStoreInUseError(
                f"{self._folder} is in use by {process_name(error.holder)}",
                "stop that one, or give this daemon another letsencrypt.cachefile",
            ) from error
        except OSError as error:
            raise store_error(error, self._folder, "written to") from error
        for folder, permissions in ((self._folder, 0o022), (self._account, 0o077)):
            remove_permissions(folder, permissions)

    def release(self) -> None:
        """Unlock the directory. May be called twice."""
        self._lock.release()

    def ensure_writable(self) -> None:
        """
        Lock the directory and check that there is space for all files of an order.

        :raises CertificateStoreError: it cannot be locked or written.
        """
        self.acquire()
        try:
            self._account.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe(self._account)
        except OSError as error:
            raise store_error(error, self._folder, "written to") from error

    def account_key(self) -> AccountKey:
        """
        The account's key; a new one where there is none or it is damaged.

        :raises CertificateStoreError: it cannot be read, or a new one cannot be written.
        """
        path = self._account / "key.pem"
        content = self._read(path)
        if content is not None:
            try:
                return AccountKey.from_pem(content)
            except AccountKeyError as damage:
                self._quarantine(path, str(damage), "a new account is registered")
                self._save_account_urls({})
        key = AccountKey.generate()
        write(path, key.pem())
        return key

    def account_url(self, server: str) -> str | None:
        """The account's URL at the server with this directory URL, if known."""
        found = self._read_json(self._account / "urls.json").get(server)
        return found if isinstance(found, str) else None

    def save_account_url(self, server: str, url: str | None) -> None:
        """Store the account's URL at a server, or delete it."""
        known = self._read_json(self._account / "urls.json")
        others = {name: each for name, each in known.items() if name != server}
        self._save_account_urls(others if url is None else {**others, server: url})

    def load_certificate(self, host: str) -> StoredCertificate | None:
        """
        The certificate of a host, ``None`` where there is none; a damaged one, or one for another host, is
        quarantined.

        :raises CertificateStoreError: it cannot be read.
        """
        try:
            return self._load_certificate(host)
        except TLSConfigurationError as damage:
            path = self._folder / f"{host}.pem"
            it = damage.message.replace(f"{path} ", "it ")
            self._quarantine(path, it, "a new certificate is ordered")
            return None

    def inspect_certificate(self, host: str) -> StoredCertificate | None:
        """
        The certificate of a host, ``None`` where there is none; nothing is quarantined.

        :raises CertificateStoreError: it cannot be read, or is damaged.
        """
        try:
            return self._load_certificate(host)
        except TLSConfigurationError as damage:
            raise CertificateStoreError(damage.message) from damage

    def _load_certificate(self, host: str) -> StoredCertificate | None:
        path = self._folder / f"{host}.pem"
        content = self._read(path)
        if content is None:
            return None
        return StoredCertificate(_parse_identity(path, content, host), self.metadata(host))

    def save_certificate(self, host: str, pem: bytes, metadata: CertificateMetadata) -> None:
        """
        Write a certificate atomically, and delete its pending order and backoff.

        :raises CertificateStoreError: it cannot be written.
        """
        write(self._folder / f"{host}.pem", pem)
        self.save_metadata(host, metadata)
        self.save_pending_order(host, None)
        self.save_backoff(host, None)

    def metadata(self, host: str) -> CertificateMetadata:
        """The metadata of a host's certificate; empty where it is damaged."""
        return CertificateMetadata.parse(self._read_json(self._folder / f"{host}.json"))

    def save_metadata(self, host: str, metadata: CertificateMetadata) -> None:
        """
        Write the metadata of a host's certificate.

        :raises CertificateStoreError: it cannot be written.
        """
        self._save_json(f"{host}.json", metadata.document())

    def pending_order(self, host: str) -> PendingOrder | None:
        """The pending order of a host; ``None`` where there is none or it is damaged."""
        return PendingOrder.parse(self._read_json(self._folder / f"{host}.order.json"))

    def save_pending_order(self, host: str, order: PendingOrder | None) -> None:
        """
        Write the pending order of a host, or delete it.

        :raises CertificateStoreError: it cannot be written.
        """
        self._save_json(f"{host}.order.json", None if order is None else order.document())

    def backoff(self, host: str) -> BackoffRecord | None:
        """The backoff of a host, if any."""
        return BackoffRecord.parse(self._read_json(self._folder / f"{host}.wait.json"))

    def save_backoff(self, host: str, backoff: BackoffRecord | None) -> None:
        """
        Write the backoff of a host, or delete it.

        :raises CertificateStoreError: it cannot be written.
        """
        self._save_json(f"{host}.wait.json", None if backoff is None else backoff.document())

    def _save_account_urls(self, urls: Mapping[str, object]) -> None:
        self._save_json("account/urls.json", urls)

    def _save_json(self, name: str, document: Mapping[str, object] | None) -> None:
        path = self._folder / name
        if document is not None:
            write(path, json.dumps(document, indent=2).encode() + b"\n")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise store_error(error, path, "deleted") from error

    def _read_json(self, path: Path) -> dict[str, Any]:
        """A JSON object; a damaged file is quarantined if the lock is held."""
        content = self._read(path)
        if content is None:
            return {}
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            return document
        if self._lock.held:
            self._quarantine(path, "it holds no JSON object", "its content is ignored")
        return {}

    def _read(self, path: Path) -> bytes | None:
        return read(path, restrict=self._lock.held)

    def _quarantine(self, path: Path, damage: str, next_step: str) -> None:
        quarantine(path, self._wall(), damage, next_step)


def _parse_identity(path: Path, content: bytes, host: str) -> Identity:
    """:raises TLSConfigurationError: it is damaged, or that of another host."""
    identity = identity_from_pem(str(path), content)
    if not matches_host(identity.chain[0], host):
        names = format_names(names_of(identity.chain[0]))
        raise TLSConfigurationError(str(path), f"{path} holds a certificate for {names}, and not for {host}")
    return identity
