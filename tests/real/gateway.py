"""The daemon as a gateway, as its users start it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

from tests.real.cache import ContentCache
from tests.real.certificates import Authority, Certificate
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import PATIENCE, Case


class GatewayDaemon(ContentCache):
    """A running gateway before ``registry``, a base URL. ``gateway`` are further options of ``redirect``."""

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
        return {**super().sections(), "workers": 1, "middleware": middleware}

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; an iterable ``body`` is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def add_cache(self, name: str, url: str, admin: str) -> str:
        """Let ``admin`` (``account:password``) add a cache; its id, once it is known to be alive."""
        answer = self.api("POST", "/content_caches", {"name": name, "host": url}, admin)
        assert answer.status == 201, answer
        found = json.loads(answer.body)["id"]
        assert isinstance(found, str)
        return found

    def choose(self, creds: str, cache_id: str) -> None:
        """Let an account (``account:password``) choose a cache."""
        account = creds.partition(":")[0]
        path = f"/accounts/{account}/settings"
        answer = self.api("PATCH", path, {"contentCacheUUID": cache_id}, creds)
        assert answer.status == 200, answer

    def api(self, method: str, path: str, body: object, creds: str) -> Answer:
        """One request to the API."""
        headers = {"Content-Type": "application/json", "Authorization": basic(*creds.split(":", 1))}
        return self.request(method, f"/api/v0{path}", json.dumps(body), headers)


class Pushing:
    """What the images of the harness are pushed through: an origin's face, the gateway's address."""

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
