"""The steps from an account to a certificate: account, order, finalize, download (RFC 8555 §7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from cryptography.x509 import load_pem_x509_certificates

from contentcache.acme.account import AccountKey
from contentcache.acme.certificate import RenewalWindow, parse_renewal_window
from contentcache.acme.challenges import AcmeAuthorization, AcmeChallenge, parse_authorization
from contentcache.acme.client import AcmeClient, AcmeResponse
from contentcache.acme.errors import (
    BINDING_REMEDY,
    AcmeError,
    AcmeRefusedError,
    AcmeServerUnavailableError,
    UnreadableCertificateError,
    parse_problem,
)
from contentcache.config.model import LetsEncrypt
from contentcache.core.base64url import base64url_encode
from contentcache.core.ports import Clock

#: Seconds between two polls where the server sends no ``Retry-After``, and the longest that is obeyed.
_POLL_INTERVAL: Final = 2.0
_MAX_POLL_INTERVAL: Final = 60.0
#: Polls of one order in one attempt.
_MAX_POLLS: Final = 60
#: Seconds that one attempt waits for one certificate: other hosts wait too, and the next attempt polls again.
_MAX_WAIT: Final = 120.0
#: Status of an order that can still become valid (RFC 8555 §7.1.6).
_UNFINISHED: Final = frozenset({"pending", "ready", "processing"})
#: Seconds before each retry of a failed download.
_DOWNLOAD_RETRIES: Final = (1.0, 4.0, 16.0)
#: Seconds between two polls of renewal information, without ``Retry-After``, and the fewest.
_RENEWAL_WINDOW_INTERVAL: Final = 6 * 3600.0
_MIN_RENEWAL_WINDOW_INTERVAL: Final = 60.0


@frozen
class AcmeOrder:
    """An order at its URL; ``body`` is the server's order object (RFC 8555 §7.1.3)."""

    url: str
    body: Mapping[str, Any]


class OrderClient:
    """
    Obtains one certificate from one server.

    ``settings`` have the account's contact and what to order; ``sleep`` waits for seconds. Every method
    raises an ``AcmeError``.
    """

    def __init__(
        self,
        client: AcmeClient,
        settings: LetsEncrypt,
        *,
        wall: Clock,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._client = client
        self._settings = settings
        self._wall = wall
        self._sleep = sleep

    @property
    def key(self) -> AccountKey:
        """The account's private key."""
        return self._client.key

    @property
    def skew(self) -> float | None:
        """Seconds that the server's clock is ahead of ours."""
        return self._client.skew

    async def connect(self) -> None:
        """Fetch the directory."""
        await self._client.require("newOrder")

    async def use_account(self, url: str | None) -> str:
        """
        Use the account at ``url``, or else find or create the account of our key (RFC 8555 §7.3).

        :return: the account's URL.
        """
        self._client.kid = url
        if url is not None:
            return url
        endpoint = await self._client.require("newAccount")
        payload: dict[str, object] = {"termsOfServiceAgreed": True}
        if self._settings.email is not None:
            payload["contact"] = [f"mailto:{self._settings.email}"]
        if self._settings.eab is not None:
            payload["externalAccountBinding"] = self.key.bind(self._settings.eab, endpoint)
        try:
            response = await self._client.post(endpoint, payload)
        except AcmeRefusedError as error:
            kind = error.problem.kind if error.problem is not None else ""
            if self._settings.eab is None or kind not in {"unauthorized", "malformed"}:
                raise
            raise AcmeRefusedError(
                error.message,
                BINDING_REMEDY,
                retry_after=error.retry_after,
                is_refusal=True,
                problem=error.problem,
            ) from error
        if response.location is None:
            raise AcmeServerUnavailableError("the ACME server does not say where the new account is")
        self._client.kid = response.location
        return response.location

    async def create_order(self, host: str, replaces: str | None = None) -> AcmeOrder:
        """Order a certificate; ``replaces`` is the old one's :func:`certificate_id` (RFC 9773 §5)."""
        endpoint = await self._client.require("newOrder")
        payload: dict[str, object] = {"identifiers": [{"type": "dns", "value": host}]}
        if self._settings.profile is not None:
            payload["profile"] = self._settings.profile
        if self._settings.lifetime is not None:
            not_after = datetime.fromtimestamp(self._wall() + self._settings.lifetime, UTC)
            payload["notAfter"] = not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
        is_replacement = replaces is not None and await self._client.find("renewalInfo") is not None
        try:
            response = await self._client.post(
                endpoint, {**payload, "replaces": replaces} if is_replacement else payload
            )
        except AcmeRefusedError as error:
            kind = error.problem.kind if error.problem is not None else ""
            if not is_replacement or not error.is_refusal or kind in {"rateLimited", "badNonce"}:
                raise
            # The server may not know the old certificate, or may have replaced it already: order without it.
            response = await self._client.post(endpoint, payload)
        if response.location is None:
            raise AcmeServerUnavailableError("the ACME server does not say where the new order is")
        return AcmeOrder(response.location, response.json())

    async def fetch_order(self, url: str) -> AcmeOrder:
        """The current state of an order that was created before."""
        return AcmeOrder(url, (await self._client.post(url)).json())

    async def fetch_authorization(self, order: AcmeOrder) -> AcmeAuthorization:
        """The authorization of an order for one host."""
        urls = order.body.get("authorizations")
        if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
            raise AcmeServerUnavailableError("the ACME server's order does not name one authorization")
        return (await self.poll_authorization(urls[0]))[0]

    async def poll_authorization(self, url: str, polls: int = 0) -> tuple[AcmeAuthorization, float]:
        """The current state of an authorization, and seconds until the next poll, after ``polls`` of them."""
        response = await self._client.post(url)
        return parse_authorization(url, response.json()), _poll_interval(response, polls)

    async def start_challenge(self, challenge: AcmeChallenge) -> None:
        """Ask the server to validate a challenge now (RFC 8555 §7.5.1)."""
        await self._client.post(challenge.url, {})

    async def finalize(self, order: AcmeOrder, csr: bytes) -> bytes:
        """Send a signing request in DER; returns the chain in PEM, leaf first (RFC 8555 §7.4)."""
        finalize_url, body = order.body.get("finalize"), order.body
        is_finalized, pause, waited = False, 0.0, 0.0
        for poll in range(_MAX_POLLS):
            status, certificate_url = body.get("status"), body.get("certificate")
            if status == "valid" and isinstance(certificate_url, str):
                return await self._download(certificate_url)
            if status == "ready" and not is_finalized and isinstance(finalize_url, str):
                response = await self._client.post(finalize_url, {"csr": base64url_encode(csr)})
                is_finalized = True
            elif status in _UNFINISHED and waited < _MAX_WAIT:
                await self._sleep(pause)
                waited += pause
                response = await self._client.post(order.url)
            elif status in _UNFINISHED:
                break
            else:
                problem = parse_problem(body.get("error"))
                raise AcmeRefusedError(
                    f"the ACME server gives no certificate: {problem}", problem.remedy, is_refusal=True
                )
            body, pause = response.json(), _poll_interval(response, poll)
        raise AcmeServerUnavailableError(
            "the ACME server has not issued the certificate in time", "the order is resumed later"
        )

    async def _download(self, url: str) -> bytes:
        """Download an issued certificate, with retries: it counts against the rate limits already."""
        for pause in _DOWNLOAD_RETRIES:
            try:
                return await self._download_once(url)
            except AcmeError:
                await self._sleep(pause)
        return await self._download_once(url)

    async def _download_once(self, url: str) -> bytes:
        pem = (await self._client.post(url)).body
        try:
            load_pem_x509_certificates(pem)
        except ValueError as error:
            raise UnreadableCertificateError(
                f"what the ACME server gave at {url} is no chain of certificates",
                "ask the certificate authority",
            ) from error
        return pem

    async def fetch_renewal_window(self, certificate_id: str) -> tuple[RenewalWindow, float] | None:
        """
        The suggested renewal window, and seconds until the next poll (RFC 9773 §4); ``None`` where the server
        has no renewal information.
        """
        base = await self._client.find("renewalInfo")
        if base is None:
            return None
        response = await self._client.get(f"{base.rstrip('/')}/{certificate_id}")
        window = parse_renewal_window(response.json())
        delay = response.retry_after
        interval = _RENEWAL_WINDOW_INTERVAL if delay is None else max(_MIN_RENEWAL_WINDOW_INTERVAL, delay)
        if window is None:
            raise AcmeServerUnavailableError("its renewal information is malformed")
        return window, interval


def _poll_interval(response: AcmeResponse, polls: int) -> float:
    # The first polls come soon: most servers need less than a second.
    default = min(_POLL_INTERVAL, 2 ** min(polls, 10) / 8)
    return min(_MAX_POLL_INTERVAL, default if response.retry_after is None else response.retry_after)
