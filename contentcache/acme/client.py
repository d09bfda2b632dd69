"""HTTP client for an ACME server: directory, nonces, signatures, problem documents (RFC 8555 §6, §7.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.web.http_headers import Headers

from contentcache.acme.account import AccountKey, Json
from contentcache.acme.errors import (
    ACCOUNT_REMEDY,
    AcmeRefusedError,
    AcmeServerUnavailableError,
    Problem,
    ResponseLostError,
    parse_problem,
)
from contentcache.aio.reactor import HttpAgent
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.ports import Clock, Timer
from contentcache.core.retry_after import retry_after_seconds
from contentcache.upstream.answers import Answer, AnswerTooLarge
from contentcache.upstream.request import WholeBody
from contentcache.upstream.responses import why

#: Timeout for the head of a response, and between two parts of its body, in seconds.
_READ_TIMEOUT: Final = 30.0
#: Timeout for a request and its whole response, in seconds.
_REQUEST_TIMEOUT: Final = 60.0
#: Largest response in bytes: more than any certificate chain has.
_MAX_RESPONSE: Final = 1 << 20
#: Attempts per request where the server refuses nonces; test servers refuse many on purpose.
_MAX_NONCES: Final = 10
#: Longest ``Retry-After`` that is obeyed, in seconds.
_MAX_RETRY_AFTER: Final = 86400.0
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]+")

_FIRST_REDIRECT: Final = 300
_FIRST_ERROR: Final = 400
_FIRST_SERVER_ERROR: Final = 500


@frozen
class AcmeResponse:
    """A response of the server; ``retry_after`` is in seconds."""

    status: int
    location: str | None
    retry_after: float | None
    body: bytes

    def json(self) -> Any:
        """
        The body as a mapping.

        :raises AcmeServerUnavailableError: it is not a JSON object.
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise AcmeServerUnavailableError(
                "the ACME server's answer is not JSON", "is letsencrypt.directoryurl right?"
            )
        return document


class AcmeClient:
    """
    Sends requests to the ACME server whose directory is at ``directory_url``, one at a time.

    :raises AcmeServerUnavailableError: from every method, without a response that can be parsed.
    :raises AcmeRefusedError: from every method, for a problem document.
    """

    def __init__(
        self, agent: HttpAgent, directory_url: str, key: AccountKey, *, timer: Timer, wall: Clock
    ) -> None:
        self.key = key
        #: The account's URL, once it is known.
        self.kid: str | None = None
        #: Seconds that the server's clock is ahead of ours, by its last ``Date`` header.
        self.skew: float | None = None
        self._agent = agent
        self._url = directory_url
        self._timer = timer
        self._wall = wall
        self._directory: Mapping[str, Any] | None = None
        self._nonces: list[str] = []

    async def find(self, resource: str) -> str | None:
        """The URL of a resource, ``None`` where the directory does not list it."""
        if self._directory is None:
            self._directory = (await self.get(self._url)).json()
        found = self._directory.get(resource)
        return found if isinstance(found, str) else None

    async def require(self, resource: str) -> str:
        """The URL of a resource that every ACME server has."""
        found = await self.find(resource)
        if found is None:
            raise AcmeServerUnavailableError(
                f"{self._url} names no {resource}, so it is no ACME server's directory",
                "is letsencrypt.directoryurl right?",
            )
        return found

    async def get(self, url: str) -> AcmeResponse:
        """Send an unsigned request: for the directory and for renewal information."""
        return self._check(await self._send("GET", url))

    async def post(self, url: str, payload: Json | None = None) -> AcmeResponse:
        """
        Send a signed request; a refused nonce is replaced (RFC 8555 §6.5).

        A request without a payload changes nothing at the server: it is sent again if its response was lost.

        :raises ResponseLostError: the server may have processed the request.
        """
        try:
            return await self._post(url, payload)
        except ResponseLostError:
            if payload is not None:
                raise
        # The server may just have closed a persistent connection.
        return await self._post(url, payload)

    async def _post(self, url: str, payload: Json | None) -> AcmeResponse:
        for _ in range(_MAX_NONCES):
            nonce = self._nonces.pop() if self._nonces else await self._fetch_nonce()
            response = await self._send("POST", url, self.key.sign(url, payload, nonce, self.kid))
            if response.status < _FIRST_ERROR or _problem_of(response).kind != "badNonce":
                return self._check(response)
        raise AcmeServerUnavailableError(
            f"the ACME server has refused {_MAX_NONCES} nonces of its own in a row"
        )

    async def _fetch_nonce(self) -> str:
        self._nonces.clear()
        response = await self._send("HEAD", await self.require("newNonce"))
        if not self._nonces:
            raise AcmeServerUnavailableError(f"the ACME server gives no nonce (status {response.status})")
        return self._nonces.pop()

    async def _send(self, method: str, url: str, body: bytes | None = None) -> AcmeResponse:
        """Send a request once; the agent repeats all but ``POST`` on a closed persistent connection."""
        if self._url.startswith("https:") and not url.startswith("https:"):
            raise AcmeServerUnavailableError(
                f"the ACME server at {self._url} names a URL that is not https, and is not asked there",
                "ask the certificate authority",
            )
        exchange = Deferred.fromCoroutine(self._exchange(method, url, body))
        try:
            return await exchange.addTimeout(_REQUEST_TIMEOUT, cast("Any", self._timer), _raise_timeout)
        except CancelledError:
            raise
        except Exception as error:
            raise self._unavailable(method, error) from error

    async def _exchange(self, method: str, url: str, body: bytes | None) -> AcmeResponse:
        headers = Headers({"Accept-Language": ["en"]})
        if body is not None:
            headers.setRawHeaders("Content-Type", ["application/jose+json"])
        producer = None if body is None else WholeBody(body)
        request = self._agent.request(method.encode("ascii"), url.encode("ascii"), headers, producer)
        response = await request.addTimeout(_READ_TIMEOUT, cast("Any", self._timer))
        answer = Answer(url, response.code, False, response, self._timer, _READ_TIMEOUT)
        content = b"" if method == "HEAD" else await answer.read(_MAX_RESPONSE)
        nonce = answer.header("Replay-Nonce")
        if nonce is not None and _NONCE.fullmatch(nonce):
            self._nonces.append(nonce)
        self._measure_skew(answer.header("Date"))
        delay = answer.header("Retry-After")
        return AcmeResponse(
            answer.status,
            answer.header("Location"),
            None if delay is None else retry_after_seconds(delay, self._wall(), longest=_MAX_RETRY_AFTER),
            content,
        )

    def _measure_skew(self, date: str | None) -> None:
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            self.skew = parsedate_to_datetime(date or "").timestamp() - self._wall()

    def _unavailable(self, method: str, error: Exception) -> AcmeServerUnavailableError:
        if isinstance(error, AcmeServerUnavailableError):
            return error
        if _is_response_lost(error):
            return ResponseLostError(
                f"the connection to the ACME server at {self._url} was lost before its response was complete",
                "the server may have processed the request" if method == "POST" else "",
            )
        if isinstance(error, DeferredTimeoutError):
            reason = f"it does not answer within {_READ_TIMEOUT:g} s"
        elif isinstance(error, AnswerTooLarge):
            reason = f"its answer is larger than {_MAX_RESPONSE} bytes"
        else:
            reason = error.message if isinstance(error, CacheError) else why(error)
        remedy = "look at letsencrypt.directoryurl, at the network and at HTTPS_PROXY"
        if "not valid yet" in reason or "has expired" in reason:
            remedy = "is the clock of this machine right?"
        elif "not trusted" in reason or "not in the list" in reason:
            reason = reason.replace("; name it in cas", "")
            remedy = "name its authority in letsencrypt.directoryca"
        return AcmeServerUnavailableError(f"the ACME server at {self._url} cannot be asked: {reason}", remedy)

    def _check(self, response: AcmeResponse) -> AcmeResponse:
        if response.status < _FIRST_ERROR:
            if response.status >= _FIRST_REDIRECT:
                raise AcmeServerUnavailableError(
                    f"the ACME server at {self._url} redirects", "name its final URL"
                )
            return response
        problem = _problem_of(response)
        if response.status >= _FIRST_SERVER_ERROR and not problem.kind:
            raise AcmeServerUnavailableError(
                f"the ACME server has failed (status {response.status})",
                "nothing is to be done here",
                retry_after=response.retry_after,
            )
        reason = problem if problem.kind or problem.detail else f"status {response.status}"
        raise AcmeRefusedError(
            f"the ACME server refuses: {reason}",
            ACCOUNT_REMEDY if problem.kind == "unauthorized" else problem.remedy,
            retry_after=response.retry_after,
            is_refusal=response.status < _FIRST_SERVER_ERROR,
            problem=problem,
        )


def _raise_timeout(_outcome: object, seconds: float) -> NoReturn:
    """:raises UpstreamTimeout: always."""
    raise UpstreamTimeout(f"its response is not complete after {seconds:g} s")


def _is_response_lost(error: BaseException) -> bool:
    """Whether the request has probably reached the server while its response was lost."""
    reasons = getattr(error, "reasons", None)
    if isinstance(reasons, list) and reasons:
        return _is_response_lost(reasons[0].value)
    if isinstance(error, UpstreamBroken):
        return not isinstance(error, AnswerTooLarge)
    return isinstance(error, ConnectionDone | ConnectionLost)


def _problem_of(response: AcmeResponse) -> Problem:
    try:
        return parse_problem(json.loads(response.body))
    except (ValueError, RecursionError):
        return parse_problem(None)
