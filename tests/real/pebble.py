"""A real ACME server: Pebble, with its own small DNS, and validation that is really performed."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.real.certificates import Authority
from tests.real.programs import Case, Process, free_port, place, until


class Pebble:
    """
    Pebble for a cache that listens on ``tls_port`` and ``http_port`` of 127.0.0.1, where its DNS leads every
    name.

    Of its nonces it refuses every fifth. ``eab`` are accounts, kid to key, without which it makes none; names
    in ``blocked`` it does not certify. Its management tells roots and what it has issued.
    """

    def __init__(
        self,
        case: Case,
        *,
        tls_port: int,
        http_port: int,
        eab: Mapping[str, str] | None = None,
        blocked: tuple[str, ...] = (),
    ) -> None:
        self._case = case
        self._folder = place(case)
        self._port, self._management = free_port(), free_port()
        authority = Authority(self._folder, "Pebble's Own")
        own = authority.leaf("localhost", "127.0.0.1")
        #: What vouches for the server itself: ``letsencrypt.directoryca``.
        self.ca = authority.path
        self.url = f"https://localhost:{self._port}/dir"
        self._config = self._folder / "pebble.json"
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(own.certificate),
            "privateKey": str(own.key),
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab is not None,
            "externalAccountMACKeys": dict(eab or {}),
            "domainBlocklist": list(blocked),
        }
        self._config.write_text(json.dumps({"pebble": settings}), "utf-8")
        self._dns = free_port()
        off = ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        self.names = Process(
            case,
            [
                "pebble-challtestsrv",
                *("-dns01", f"127.0.0.1:{self._dns}", *off),
                *("-defaultIPv6", "", "-management", f"127.0.0.1:{free_port()}"),
            ],
            name="names",
        )
        self.process = self._begin()

    def _begin(self) -> Process:
        process = Process(
            self._case,
            ["pebble", "-config", self._config, "-dnsserver", f"127.0.0.1:{self._dns}"],
            name="pebble",
            env={"PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "50"},
        )
        process.wait_for(self.url, statuses=(200,))
        return process

    def stop(self) -> None:
        """Be away."""
        self.process.stop()

    def start(self) -> None:
        """Be back; it has forgotten everything, accounts and its root too."""
        self.process = self._begin()

    def root(self) -> Path:
        """The file of the root that its certificates lead to."""
        path = self._folder / "root.pem"
        path.write_bytes(self._ask("/roots/0"))
        return path

    def asked(self, words: str) -> int:
        """How many lines of its log have these words."""
        return sum(words in line for line in self.process.log().splitlines())

    def wait_for(self, words: str) -> None:
        """Wait until its log has these words."""
        until(lambda: self.asked(words), f"pebble says {words!r}")

    def _ask(self, path: str) -> bytes:
        context = ssl.create_default_context(cafile=str(self.ca))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://localhost:{self._management}{path}", timeout=10) as answer:
            return bytes(answer.read())
