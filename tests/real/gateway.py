"""
The daemon as a gateway, as its users start it.
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.real.cache import ContentCache
from tests.real.certificates import Authority, Certificate
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import PATIENCE, ROOT, Case, Process


class GatewayDaemon(ContentCache):
    """
    A running gateway before ``registry``, a base URL. ``gateway`` are further options of ``redirect``.
    """

    def __init__(
        self,
        case: Case,
        registry: str,
        *,
        gateway: Mapping[str, object] | None = None,
        http: Mapping[str, object] | None = None,
        tls: Certificate | None = None,
        authority: Authority | None = None,
    ) -> None:
        self._registry = registry
        self._gateway = dict(gateway or {})
        super().__init__(case, registry, http=http, tls=tls, authority=authority)

    def sections(self) -> dict[str, Any]:
        """The configuration, as it is written."""
        options = {
            "registry": self._registry,
            "issuer": self.url,
            "signingkey": str(self._folder / "signing.pem"),
            "database": str(self._folder / "gateway.sqlite3"),
            **self._gateway,
        }
        middleware = {"registry": [{"name": "redirect", "options": options}]}
        return {**super().sections(), "middleware": middleware}

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """
        One request on a connection of its own; an iterable ``body`` is sent in chunks.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()


class Pushing:
    """
    What the images of the harness are pushed through: an origin's face, the gateway's address.
    """

    def __init__(
        self, gateway: GatewayDaemon, origin: Origin, account: tuple[str, str] | None = None
    ) -> None:
        self._gateway = gateway
        self._origin = origin
        self._account = account

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request, with the account or with the token that the origin's harness would bring."""
        authorization = (
            {"Authorization": basic(*self._account)}
            if self._account is not None
            else self._origin._authorization(path)
        )
        return self._gateway.request(method, path, body, {**authorization, **(headers or {})})


_CHOSEN = """\
import json
import contentcache.gateway.assembly as assembly

async def cache_for(self, account, address):
    with open({path!r}) as file:
        return json.load(file).get(account or "")

assembly.NoCaches.cache_for = cache_for
from twisted.scripts.twistd import run
run()
"""


class ChosenGateway(GatewayDaemon):
    """
    A gateway whose accounts choose by :meth:`choose`.
    """

    def choose(self, account: str, url: str) -> None:
        """From now on ``account``, empty for nobody's, is sent to the cache at ``url``."""
        self._choices.write_text(json.dumps({account: url}), "utf-8")

    @property
    def _choices(self) -> Path:
        return self._folder / "choices.json"

    def _begin(self, port: int) -> Process:
        self.port = port
        self._write()
        self._choices.write_text("{}", "utf-8")
        argv = [sys.executable, "-c", _CHOSEN.format(path=str(self._choices))]
        argv += ["--nodaemon", "--pidfile=", "contentcache", "--config", str(self.config)]
        process = Process(
            self._case,
            argv,
            name="gateway",
            env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            cwd=self.config.parent,
            log_path=self._folder / "gateway.log",
        )
        process.wait_for(f"{self.url}/", statuses=(200,))
        process.wait_for(f"{self.url}/.well-known/contentcache/jwks.json", statuses=(200,))
        return process
