"""
Everything passes: a request goes to the registry behind as it is, and so does its answer come back.
"""

from __future__ import annotations

from typing import Final

from contentcache.core.challenges import parse_challenges
from contentcache.core.ports import Timer
from contentcache.gateway.connections import Connections
from contentcache.gateway.conversation import Reply
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.question import Question
from contentcache.upstream.answers import Answer
from contentcache.web.relay import stream

#: How long a question for realms is not asked again, in seconds; and how many are remembered.
_REALMS_KNOWN: Final = 10.0
_MOST_REALMS: Final = 16
#: Fields that make an answer less than a yes to all of a blob (RFC 9110 §13.1, §14.2).
_PARTIAL: Final = frozenset(
    {"range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}
)


class Passing:
    """
    Passes requests on. ``pseudonym`` names this gateway in ``Via``.
    """

    def __init__(
        self, connections: Connections, rewriting: Rewriting, *, pseudonym: str, timer: Timer
    ) -> None:
        self._connections = connections
        self._rewriting = rewriting
        self._pseudonym = pseudonym
        self._timer = timer
        self._realms: set[str] = set()
        self._asked_for_realms: float | None = None

    async def pass_on(self, exchange: GatewayExchange, path: str, words: str = "pass") -> None:
        """
        Ask the registry for ``path`` with all that the client sent, and give its answer to the client.

        :raises CacheError: there is no answer.
        """
        question = self._question(exchange, exchange.method, path)
        answer, reply = await self._connections.ask(question, exchange.body)
        await self._give(exchange, answer, reply, words)

    async def glance(self, exchange: GatewayExchange, path: str) -> Answer:
        """
        Ask with ``HEAD`` for what the client wants, by its own credentials; the answer has no body.

        :raises CacheError: there is no answer.
        """
        question = self._question(exchange, "HEAD", path, parts=False)
        answer, _ = await self._connections.ask(question)
        answer.abandon()
        return answer

    async def is_realm(self, path: str) -> bool:
        """
        Whether the registry behind sends clients to ``path`` for their tokens, as far as it has said so.

        It is asked once in a while: after a start clients may come with what they know from before.
        """
        if path in self._realms:
            return True
        now = self._timer.seconds()
        if self._asked_for_realms is None or now - self._asked_for_realms >= _REALMS_KNOWN:
            fields = [("Host", self._rewriting.registry.partition("://")[2]), ("Accept", "*/*")]
            answer, _ = await self._connections.ask(Question("GET", "/v2/", fields))
            self._asked_for_realms = now  # and not before: while it is away, that is the answer
            self._learn(answer)
            answer.abandon()
        return path in self._realms

    def _question(self, exchange: GatewayExchange, method: str, path: str, *, parts: bool = True) -> Question:
        asker = exchange.asker(exchange.via(self._pseudonym))
        fields = self._rewriting.to_registry(exchange.fields(), asker)
        if not parts:
            fields = [field for field in fields if field[0].lower() not in _PARTIAL]
        target = path + ("?" + exchange.query_string if exchange.query_string else "")
        return Question(method, target, fields, expects=exchange.header("Expect") is not None)

    async def _give(self, exchange: GatewayExchange, answer: Answer, reply: Reply, words: str) -> None:
        self._learn(answer)
        fields = self._rewriting.to_client(reply.fields, exchange.host)
        await stream(answer, exchange, lambda: exchange.start_as_is(answer.status, fields, words))

    def _learn(self, answer: Answer) -> None:
        for challenge in parse_challenges(answer.values("WWW-Authenticate")):
            path = self._rewriting.path_behind(challenge.parameters.get("realm", ""))
            if path is not None and len(self._realms) < _MOST_REALMS:
                self._realms.add(path)
