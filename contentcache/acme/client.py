"""
From a host's name to its certificate, in the steps of RFC 8555 §7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from cryptography.x509 import load_pem_x509_certificates

from contentcache.acme.account_key import AccountKey
from contentcache.acme.challenges import Authorization, Challenge, authorization_in
from contentcache.acme.conversation import Conversation, Reply
from contentcache.acme.problems import (
    BINDING_REFUSED,
    AcmeFault,
    Refused,
    ServerAway,
    Unreadable,
    problem_in,
)
from contentcache.acme.timing import Window, window_in
from contentcache.config.model import LetsEncrypt
from contentcache.core.ports import Clock
from contentcache.jose.jws import base64url_encode

#: Between two looks at what the server has in hand, where it does not say itself, in seconds.
_LOOK_AGAIN: Final = 2.0
_LONGEST_WAIT: Final = 60.0
#: So often is looked whether the certificate is made.
_MOST_LOOKS: Final = 60
#: So many seconds is waited for one in one go: others may want theirs, and the next attempt asks again.
_LONGEST_IN_HAND: Final = 120.0
#: An order that may yet become a certificate (RFC 8555 §7.1.6).
_IN_HAND: Final = frozenset({"pending", "ready", "processing"})
#: A certificate that does not come is asked for again after so many seconds.
_DOWNLOAD_AGAIN: Final = (1.0, 4.0, 16.0)
_RENEWAL_AGAIN: Final = 6 * 3600.0


@frozen
class Order:
    """
    What was asked for; ``body`` is the server's own description.
    """

    url: str
    body: Mapping[str, Any]


class AcmeClient:
    """
    What is said to one server in order to get one certificate.

    ``settings`` say who we are and what to ask for; ``sleep`` waits for seconds. Every method raises an
    ``AcmeFault``.
    """

    def __init__(
        self,
        conversation: Conversation,
        key: AccountKey,
        settings: LetsEncrypt,
        *,
        wall: Clock,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._conversation = conversation
        self._settings = settings
        self._wall = wall
        self._sleep = sleep
        self.key = key

    @property
    def skew(self) -> float | None:
        """By how many seconds the server's clock is ahead of ours."""
        return self._conversation.skew

    async def connect(self) -> None:
        """
        Fetch the directory.
        """
        await self._conversation.demand("newOrder")

    async def use_account(self, url: str | None) -> str:
        """
        Be the account at ``url``, or else the one that belongs to our key, which is made if there is none
        (RFC 8555 §7.3). Its URL.
        """
        self._conversation.kid = url
        if url is not None:
            return url
        address = await self._conversation.demand("newAccount")
        wanted: dict[str, object] = {"termsOfServiceAgreed": True}
        if self._settings.email is not None:
            wanted["contact"] = [f"mailto:{self._settings.email}"]
        if self._settings.eab is not None:
            wanted["externalAccountBinding"] = self.key.bound_to(self._settings.eab, address)
        try:
            reply = await self._conversation.post(address, wanted)
        except Refused as refused:
            kind = refused.problem.kind if refused.problem is not None else ""
            if self._settings.eab is None or kind not in {"unauthorized", "malformed"}:
                raise
            raise Refused(
                refused.says,
                BINDING_REFUSED,
                retry_after=refused.retry_after,
                is_refusal=True,
                problem=refused.problem,
            ) from refused
        if reply.location is None:
            raise ServerAway("the ACME server does not say where the new account is")
        self._conversation.kid = reply.location
        return reply.location

    async def order(self, host: str, replaces: str | None = None) -> Order:
        """
        Ask for a certificate; ``replaces`` is what :func:`renewal_name` says of the one before (RFC 9773 §5).
        """
        address = await self._conversation.demand("newOrder")
        wanted: dict[str, object] = {"identifiers": [{"type": "dns", "value": host}]}
        if self._settings.profile is not None:
            wanted["profile"] = self._settings.profile
        if self._settings.lifetime is not None:
            ends = datetime.fromtimestamp(self._wall() + self._settings.lifetime, UTC)
            wanted["notAfter"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
        offers = replaces is not None and await self._conversation.find("renewalInfo") is not None
        try:
            reply = await self._conversation.post(
                address, {**wanted, "replaces": replaces} if offers else wanted
            )
        except Refused as refused:
            kind = refused.problem.kind if refused.problem is not None else ""
            if not offers or not refused.is_refusal or kind in {"rateLimited", "badNonce"}:
                raise
            # That the server does not know the old one, or has a successor of it, or whatever else it has
            # against it, is no reason to have none.
            reply = await self._conversation.post(address, wanted)
        if reply.location is None:
            raise ServerAway("the ACME server does not say where the new order is")
        return Order(reply.location, reply.json())

    async def authorization(self, order: Order) -> Authorization:
        """
        What has to be proved for an order of one host.
        """
        urls = order.body.get("authorizations")
        if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
            raise ServerAway("the ACME server's order does not name one authorization")
        return (await self.look_at(urls[0]))[0]

    async def look_at(self, url: str, looks: int = 0) -> tuple[Authorization, float]:
        """
        An authorization as it is now, and in how many seconds to look again, after so many ``looks``.
        """
        reply = await self._conversation.post(url)
        return authorization_in(url, reply.json()), _pause(reply, looks)

    async def begin(self, challenge: Challenge) -> None:
        """
        Say that a challenge can be looked at now.
        """
        await self._conversation.post(challenge.url, {})

    async def certificate(self, order: Order, csr: bytes) -> bytes:
        """
        Hand in a signing request in DER, and wait for the chain in PEM, the leaf first (RFC 8555 §7.4).
        """
        finalize, body = order.body.get("finalize"), order.body
        is_finalized, pause, waited = False, 0.0, 0.0
        for look in range(_MOST_LOOKS):
            status, where = body.get("status"), body.get("certificate")
            if status == "valid" and isinstance(where, str):
                return await self._download(where)
            if status == "ready" and not is_finalized and isinstance(finalize, str):
                reply = await self._conversation.post(finalize, {"csr": base64url_encode(csr)})
                is_finalized = True
            elif status in _IN_HAND and waited < _LONGEST_IN_HAND:
                await self._sleep(pause)
                waited += pause
                reply = await self._conversation.post(order.url)
            elif status in _IN_HAND:
                break
            else:
                problem = problem_in(body.get("error"))
                raise Refused(
                    f"the ACME server gives no certificate: {problem}", problem.remedy, is_refusal=True
                )
            body, pause = reply.json(), _pause(reply, look)
        raise ServerAway(
            "the ACME server does not come to an end with the certificate", "it is asked for it again later"
        )

    async def order_at(self, url: str) -> Order:
        """
        An order that was made before, as it is now.
        """
        return Order(url, (await self._conversation.post(url)).json())

    async def _download(self, url: str) -> bytes:
        """
        A certificate that was made. It counts, so one that does not come is asked for some times.
        """
        for pause in _DOWNLOAD_AGAIN:
            try:
                return await self._download_once(url)
            except AcmeFault:
                await self._sleep(pause)
        return await self._download_once(url)

    async def _download_once(self, url: str) -> bytes:
        pem = (await self._conversation.post(url)).body
        try:
            load_pem_x509_certificates(pem)
        except ValueError as error:
            raise Unreadable(
                f"what the ACME server gave at {url} is no chain of certificates",
                "ask the certificate authority",
            ) from error
        return pem

    async def renewal(self, name: str) -> tuple[Window, float] | None:
        """
        When the server suggests to renew, and in how many seconds to ask again (RFC 9773 §4); ``None`` where
        it knows no such suggestions.
        """
        base = await self._conversation.find("renewalInfo")
        if base is None:
            return None
        reply = await self._conversation.get(f"{base.rstrip('/')}/{name}")
        window = window_in(reply.json())
        again = _RENEWAL_AGAIN if reply.retry_after is None else max(60.0, reply.retry_after)
        if window is None:
            raise ServerAway("its renewal information makes no sense")
        return window, again


def _pause(reply: Reply, looks: int) -> float:
    # The first looks come soon: most servers need no second for it.
    otherwise = min(_LOOK_AGAIN, 2 ** min(looks, 10) / 8)
    return min(_LONGEST_WAIT, otherwise if reply.retry_after is None else reply.retry_after)
