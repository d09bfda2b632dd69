"""
The folder that keeps the account's key and the certificates: PEM that other programs can read.

``<host>.pem`` has key, certificate and chain in one file, so that they are never of different ages;
``<host>.json`` what is known of it besides; ``<host>.order.json`` an order whose certificate has not come
yet, and its key; ``<host>.wait.json`` until when the server is left alone; ``account/key.pem`` is the
account, ``account/urls.json`` its names at the servers. Everything here waits for the disk: call it in a
thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contentcache.acme.account import AccountKey, AccountKeyError
from contentcache.acme.errors import CertificateStoreError
from contentcache.acme.files import HALF, fault_of, narrow, probe, put_aside, read, write
from contentcache.acme.lock import FolderLock
from contentcache.acme.names import is_for, names_of, said
from contentcache.acme.notes import Begun, Kept, Note, Wait
from contentcache.tls.files import Identity, TLSFault, identity_in


class Cabinet:
    """
    The folder. It and its files belong to the daemon's account alone.
    """

    def __init__(self, folder: str, wall: Any) -> None:
        self._folder = Path(folder)
        self._account = self._folder / "account"
        self._lock = FolderLock(self._folder)
        self._wall = wall

    def take(self) -> None:
        """
        Be the only process that writes here, until :meth:`give_back`.

        :raises CertificateStoreInUseError: another one does.
        :raises CertificateStoreError: nobody can.
        """
        if self._lock.held:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.take()
            self._account.mkdir(mode=0o700, exist_ok=True)
            # What was being written when a process was killed. Nobody else can be at it now.
            for folder in (self._folder, self._account):
                for path in folder.glob(f".*{HALF}"):
                    path.unlink()
        except OSError as error:
            raise fault_of(error, self._folder, "written to") from error
        for folder, rights in ((self._folder, 0o022), (self._account, 0o077)):
            narrow(folder, rights)

    def give_back(self) -> None:
        """
        Let another process write. May be called twice.
        """
        self._lock.give_back()

    def open(self) -> None:
        """
        See that there is room for all that comes of an order, and that nobody else writes.

        :raises CertificateStoreError: nothing can.
        """
        self.take()
        try:
            self._account.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe(self._account)
        except OSError as error:
            raise fault_of(error, self._folder, "written to") from error

    def account_key(self) -> AccountKey:
        """
        The account's key, a new one where there is none or a damaged one.

        :raises CertificateStoreError: it cannot be read, or a new one not be written.
        """
        path = self._account / "key.pem"
        content = self._read(path)
        if content is not None:
            try:
                return AccountKey.from_pem(content)
            except AccountKeyError as damage:
                self._put_aside(path, str(damage), "a new account is made")
                self._account_urls({})
        key = AccountKey.generate()
        write(path, key.pem())
        return key

    def account_url(self, server: str) -> str | None:
        """
        The account's name at the server with this directory, as far as it is known.
        """
        found = self._json(self._account / "urls.json").get(server)
        return found if isinstance(found, str) else None

    def keep_account_url(self, server: str, url: str | None) -> None:
        """
        Remember it, or forget it.
        """
        known = {
            name: each for name, each in self._json(self._account / "urls.json").items() if name != server
        }
        self._account_urls(known if url is None else {**known, server: url})

    def certificate(self, host: str) -> Kept | None:
        """
        The certificate of a host, ``None`` where there is none, or one that is damaged or another host's:
        that is put aside.

        :raises CertificateStoreError: it cannot be read.
        """
        path = self._folder / f"{host}.pem"
        content = self._read(path)
        if content is None:
            return None
        try:
            return Kept(_identity(path, content, host), self.note(host))
        except TLSFault as damage:
            it = damage.message.replace(f"{path} ", "it ")
            self._put_aside(path, it, "a new certificate is asked for")
            return None

    def look(self, host: str) -> Kept | None:
        """
        The same, and nothing is put aside.

        :raises CertificateStoreError: it cannot be read, or is damaged.
        """
        path = self._folder / f"{host}.pem"
        content = self._read(path)
        try:
            return None if content is None else Kept(_identity(path, content, host), self.note(host))
        except TLSFault as damage:
            raise CertificateStoreError(damage.message) from damage

    def keep_certificate(self, host: str, pem: bytes, note: Note) -> None:
        """
        Write it so that it is whole after any kind of end.

        :raises CertificateStoreError: it cannot be written.
        """
        write(self._folder / f"{host}.pem", pem)
        self.keep_note(host, note)
        self.keep_order(host, None)
        self.keep_wait(host, None)

    def order(self, host: str) -> Begun | None:
        """
        The order whose certificate has not come yet; none where that is damaged.
        """
        return Begun.of(self._json(self._folder / f"{host}.order.json"))

    def keep_order(self, host: str, begun: Begun | None) -> None:
        """
        Write it, or that there is none.

        :raises CertificateStoreError: it cannot be written.
        """
        self._keep(f"{host}.order.json", None if begun is None else begun.document())

    def wait(self, host: str) -> Wait | None:
        """
        How long the server is left alone about a host, if at all.
        """
        return Wait.of(self._json(self._folder / f"{host}.wait.json"))

    def keep_wait(self, host: str, wait: Wait | None) -> None:
        """
        Write it, or that there is none.

        :raises CertificateStoreError: it cannot be written.
        """
        self._keep(f"{host}.wait.json", None if wait is None else wait.document())

    def _keep(self, name: str, document: Mapping[str, object] | None) -> None:
        path = self._folder / name
        if document is not None:
            write(path, json.dumps(document, indent=2).encode() + b"\n")
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise fault_of(error, path, "taken away") from error

    def note(self, host: str) -> Note:
        """
        What is noted of a host's certificate; nothing where that is damaged.
        """
        return Note.of(self._json(self._folder / f"{host}.json"))

    def keep_note(self, host: str, note: Note) -> None:
        """
        Write it.

        :raises CertificateStoreError: it cannot be written.
        """
        written = json.dumps(note.document(), indent=2)
        write(self._folder / f"{host}.json", written.encode() + b"\n")

    def _account_urls(self, urls: Mapping[str, object]) -> None:
        write(self._account / "urls.json", json.dumps(urls, indent=2).encode() + b"\n")

    def _json(self, path: Path) -> dict[str, Any]:
        """
        What was noted; a file that is none of ours is put aside, where we may.
        """
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
            self._put_aside(path, "it holds no JSON object", "goes without what was noted there")
        return {}

    def _read(self, path: Path) -> bytes | None:
        return read(path, is_ours=self._lock.held)

    def _put_aside(self, path: Path, damage: str, next_step: str) -> None:
        put_aside(path, self._wall(), damage, next_step)


def _identity(path: Path, content: bytes, host: str) -> Identity:
    """
    :raises TLSFault: it is damaged, or that of another host.
    """
    identity = identity_in(str(path), content)
    if not is_for(identity.chain[0], host):
        names = said(names_of(identity.chain[0]))
        raise TLSFault(str(path), f"{path} holds a certificate for {names}, and not for {host}")
    return identity
