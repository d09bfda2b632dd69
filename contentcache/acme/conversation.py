"""
Requests to an ACME server, one after the other: the directory, nonces, signatures, problems (RFC 8555 §6,
§7.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn, cast

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.web.http_headers import Headers

from contentcache.acme.account_key import AccountKey, Json
from contentcache.acme.problems import ACCOUNT_REFUSED, AnswerLost, Refused, ServerAway, problem_in
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.ports import Clock, Timer
from contentcache.core.retry_after import seconds_of_patience
from contentcache.upstream.agent import why
from contentcache.upstream.answers import Answer, AnswerTooLarge
from contentcache.upstream.ports import Asking
from contentcache.upstream.whole_body import WholeBody

#: Seconds until the head of an answer is there, and in which a body may pause.
_PATIENCE: Final = 30.0
#: Seconds for a question and its whole answer, however the server doles that out.
_WHOLE: Final = 60.0
#: More than any chain of certificates has.
_LARGEST: Final = 1 << 20
#: How often a nonce may be refused for one request: servers that test their clients refuse many.
_MOST_NONCES: Final = 10
#: For so many seconds at the most is the server left alone, whatever it says.
_LONGEST_PATIENCE: Final = 86400.0
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]+")

_REDIRECTS: Final = 300
_ERRORS: Final = 400
_ITS_OWN: Final = 500


@frozen
class Reply:
    """
    An answer of the server. ``retry_after`` is in seconds, ``skew`` how much its clock is ahead of ours.
    """

    status: int
    location: str | None
    retry_after: float | None
    skew: float | None
    body: bytes

    def json(self) -> Any:
        """
        The body as a mapping. Raises ``ServerAway``.
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ServerAway("the ACME server's answer is not JSON", "is letsencrypt.directoryurl right?")
        return document


class Conversation:
    """
    One client's requests to the server whose directory is at ``directory_url``.

    Every method raises ``ServerAway`` where the server cannot be understood, and ``Refused`` with its
    problem.
    """

    def __init__(
        self, agent: Asking, directory_url: str, key: AccountKey, *, timer: Timer, wall: Clock
    ) -> None:
        self._agent = agent
        self._url = directory_url
        self._key = key
        self._timer = timer
        self._wall = wall
        self._directory: Mapping[str, Any] | None = None
        self._nonces: list[str] = []
        #: The account's URL, once there is one.
        self.kid: str | None = None
        #: By how many seconds the server's clock is ahead of ours, as far as it has said.
        self.skew: float | None = None

    async def find(self, resource: str) -> str | None:
        """
        The URL that the directory names for a resource, ``None`` where it names none.
        """
        if self._directory is None:
            self._directory = (await self.get(self._url)).json()
        found = self._directory.get(resource)
        return found if isinstance(found, str) else None

    async def demand(self, resource: str) -> str:
        """
        The same for what every server has.
        """
        found = await self.find(resource)
        if found is None:
            raise ServerAway(
                f"{self._url} names no {resource}, so it is no ACME server's directory",
                "is letsencrypt.directoryurl right?",
            )
        return found

    async def get(self, url: str) -> Reply:
        """
        Ask without a signature: for the directory and for renewal information.
        """
        return self._unless_refused(await self._send("GET", url))

    async def post(self, url: str, payload: Json | None = None) -> Reply:
        """
        Ask with a signature; a nonce that the server does not like is replaced (RFC 8555 §6.5).

        Without a payload nothing but looking is asked for, and that is asked again where the answer is lost.

        :raises AnswerLost: the server may or may not have done what was asked.
        """
        try:
            return await self._post(url, payload)
        except AnswerLost:
            if payload is not None:
                raise
        # The server may just have closed a connection that was kept open.
        return await self._post(url, payload)

    async def _post(self, url: str, payload: Json | None) -> Reply:
        for _ in range(_MOST_NONCES):
            nonce = self._nonces.pop() if self._nonces else await self._new_nonce()
            reply = await self._send("POST", url, self._key.signed(url, payload, nonce, self.kid))
            if reply.status < _ERRORS or _problem(reply).kind != "badNonce":
                return self._unless_refused(reply)
        raise ServerAway(f"the ACME server has refused {_MOST_NONCES} nonces of its own in a row")

    async def _new_nonce(self) -> str:
        self._nonces.clear()
        reply = await self._send("HEAD", await self.demand("newNonce"))
        if not self._nonces:
            raise ServerAway(f"the ACME server gives no nonce (status {reply.status})")
        return self._nonces.pop()

    async def _send(self, method: str, url: str, body: bytes | None = None) -> Reply:
        """
        Ask once. An agent asks again where a connection that was kept open is found closed, but for ``POST``.
        """
        if self._url.startswith("https:") and not url.startswith("https:"):
            raise ServerAway(
                f"the ACME server at {self._url} names a URL that is not https, and is not asked there",
                "ask the certificate authority",
            )
        asking = Deferred.fromCoroutine(self._exchange(method, url, body))
        try:
            return await asking.addTimeout(_WHOLE, cast("Any", self._timer), _too_slow)
        except CancelledError:
            raise
        except Exception as error:
            raise self._away(method, error) from error

    async def _exchange(self, method: str, url: str, body: bytes | None) -> Reply:
        headers = Headers({"Accept-Language": ["en"]})
        if body is not None:
            headers.setRawHeaders("Content-Type", ["application/jose+json"])
        producer = None if body is None else WholeBody(body)
        asking = self._agent.request(method.encode("ascii"), url.encode("ascii"), headers, producer)
        response = await asking.addTimeout(_PATIENCE, cast("Any", self._timer))
        answer = Answer(url, response.code, False, response, self._timer, _PATIENCE)
        content = b"" if method == "HEAD" else await answer.read(_LARGEST)
        nonce = answer.header("Replay-Nonce")
        if nonce is not None and _NONCE.fullmatch(nonce):
            self._nonces.append(nonce)
        self._compare_clocks(answer.header("Date"))
        asked = answer.header("Retry-After")
        return Reply(
            answer.status,
            answer.header("Location"),
            None if asked is None else seconds_of_patience(asked, self._wall(), longest=_LONGEST_PATIENCE),
            self.skew,
            content,
        )

    def _compare_clocks(self, date: str | None) -> None:
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            self.skew = parsedate_to_datetime(date or "").timestamp() - self._wall()

    def _away(self, method: str, error: Exception) -> ServerAway:
        if isinstance(error, ServerAway):
            return error
        if _broke_off(error):
            return AnswerLost(
                f"the connection to the ACME server at {self._url} broke off before its answer was whole",
                "what was asked for may have been done all the same" if method == "POST" else "",
            )
        if isinstance(error, TooLate):
            said = f"it does not answer within {_PATIENCE:g} s"
        elif isinstance(error, AnswerTooLarge):
            said = f"its answer is larger than {_LARGEST} bytes"
        else:
            said = error.message if isinstance(error, CacheError) else why(error)
        remedy = "look at letsencrypt.directoryurl, at the network and at HTTPS_PROXY"
        if "not valid yet" in said or "has expired" in said:
            remedy = "is the clock of this machine right?"
        elif "not trusted" in said or "not in the list" in said:
            said = said.replace("; name it in cas", "")
            remedy = "name its authority in letsencrypt.directoryca"
        return ServerAway(f"the ACME server at {self._url} cannot be asked: {said}", remedy)

    def _unless_refused(self, reply: Reply) -> Reply:
        if reply.status < _ERRORS:
            if reply.status >= _REDIRECTS:
                raise ServerAway(f"the ACME server at {self._url} redirects", "name its final URL")
            return reply
        problem = _problem(reply)
        if reply.status >= _ITS_OWN and not problem.kind:
            raise ServerAway(
                f"the ACME server has a fault of its own (status {reply.status})",
                "nothing is to be done here",
                retry_after=reply.retry_after,
            )
        said = problem if problem.kind or problem.detail else f"status {reply.status}"
        raise Refused(
            f"the ACME server refuses: {said}",
            ACCOUNT_REFUSED if problem.kind == "unauthorized" else problem.remedy,
            retry_after=reply.retry_after,
            is_refusal=reply.status < _ITS_OWN,
            problem=problem,
        )


def _too_slow(_outcome: object, seconds: float) -> NoReturn:
    """
    :raises UpstreamTimeout: always.
    """
    raise UpstreamTimeout(f"its answer is not whole after {seconds:g} s")


def _broke_off(error: BaseException) -> bool:
    """
    Whether a question has got to the server, as far as we know, and its answer not to us.
    """
    reasons = getattr(error, "reasons", None)
    if isinstance(reasons, list) and reasons:
        return _broke_off(reasons[0].value)
    if isinstance(error, UpstreamBroken):
        return not isinstance(error, AnswerTooLarge)
    return isinstance(error, ConnectionDone | ConnectionLost)


def _problem(reply: Reply) -> Any:
    try:
        return problem_in(json.loads(reply.body))
    except (ValueError, RecursionError):
        return problem_in(None)
