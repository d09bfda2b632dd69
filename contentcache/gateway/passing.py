"""Everything passes: a request goes to the registry behind as it is, and so does its answer come back."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, Literal

from contentcache.core.errors import CacheError
from contentcache.core.http_auth import parse_challenges
from contentcache.core.ports import Timer
from contentcache.core.routes import Content
from contentcache.core.via import added
from contentcache.gateway.answers import JSON
from contentcache.gateway.connections import Asked, Connections
from contentcache.gateway.conversation import Reply
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.isolation import isolated
from contentcache.gateway.question import Field, Question
from contentcache.server.errors import as_answer
from contentcache.server.relay import stream

#: How long a question for realms is not asked again, in seconds; and how many are remembered.
_REALMS_KNOWN: Final = 10.0
_MOST_REALMS: Final = 16
#: In the gateway's own questions: what registries choose an answer by must not come from a client.
_ACCEPT: Final = "*/*"
#: Fields about a body, which another one does not have.
_OF_BODY: Final = frozenset(
    {"content-type", "content-length", "content-encoding", "content-range", "content-md5", "content-digest"}
    | {"repr-digest", "digest", "etag", "last-modified", "accept-ranges"}
)


class Passing:
    """Passes requests on. ``pseudonym`` names this gateway in ``Via``."""

    def __init__(
        self, connections: Connections, rewriting: Rewriting, *, pseudonym: str, timer: Timer
    ) -> None:
        self._connections = connections
        self._rewriting = rewriting
        self._pseudonym = pseudonym
        self._timer = timer
        self._realms: set[str] = set()
        self._asked_for_realms: float | None = None

    async def pass_on(
        self, exchange: GatewayExchange, path: str, words: str = "pass", *, is_page: bool = False
    ) -> None:
        """
        Ask the registry for ``path`` with all that the client sent, and give its answer to the client, as a
        page of the registry's own with ``is_page``.

        :raises CacheError: there is no answer.
        """
        asker = exchange.asker(exchange.via(self._pseudonym))
        fields = self._rewriting.to_registry(exchange.fields(), asker)
        target = path + ("?" + exchange.query_string if exchange.query_string else "")
        question = Question(exchange.method, target, fields, expects=exchange.header("Expect") is not None)
        async with self._connections.ask(question, exchange.body) as asked:
            head = self._head(exchange, asked.reply, is_page=is_page)
            await stream(asked.answer, exchange, lambda: exchange.start_as_is(asked.status, head, words))

    def ask(
        self, exchange: GatewayExchange, content: Content, method: Literal["GET", "HEAD"], span: str = ""
    ) -> AbstractAsyncContextManager[Asked]:
        """
        The gateway's own question: whether the registry lets this client's credentials have a blob, or
        ``span`` of it (a value of ``Range``).

        Nothing else of the request is in it, neither header nor query: a registry, or a proxy before it, may
        answer a browser with a page to sign in, and what one client sends must not decide what is a yes.
        """
        fields: list[Field] = [("Host", self._rewriting.authority_behind)]
        authorization = exchange.header("Authorization")
        if authorization is not None:
            fields.append(("Authorization", authorization))
        fields += [("Accept", _ACCEPT), ("Via", added((), self._pseudonym))]
        if span:
            fields.append(("Range", span))
        return self._connections.ask(Question(method, content.path(), fields))

    def give_head(self, exchange: GatewayExchange, reply: Reply, words: str) -> None:
        """Answer ``HEAD`` with the head of an answer that is at hand."""
        exchange.start_as_is(reply.code, self._head(exchange, reply, is_page=False), words)
        exchange.finish()

    def give_error(self, exchange: GatewayExchange, reply: Reply, error: CacheError, words: str) -> None:
        """
        Answer with the status and the fields of an answer whose body is not at hand, and with an error as its
        body.
        """
        body = as_answer(error).body
        head = [
            field for field in self._head(exchange, reply, is_page=False) if field[0].lower() not in _OF_BODY
        ]
        head += [("Content-Type", JSON), ("Content-Length", str(len(body)))]
        exchange.start_as_is(reply.code, head, words)
        exchange.write(body)
        exchange.finish()

    async def is_realm(self, path: str) -> bool:
        """
        Whether the registry behind sends clients to ``path`` for their tokens, as far as it has said so.

        It is asked once in a while: after a start clients may come with what they know from before.
        """
        if path in self._realms:
            return True
        now = self._timer.seconds()
        if self._asked_for_realms is None or now - self._asked_for_realms >= _REALMS_KNOWN:
            fields = [("Host", self._rewriting.authority_behind), ("Accept", _ACCEPT)]
            async with self._connections.ask(Question("GET", "/v2/", fields)) as asked:
                self._asked_for_realms = now  # and not before: while it is away, that is the answer
                self._learn(asked.reply)
        return path in self._realms

    def _head(self, exchange: GatewayExchange, reply: Reply, *, is_page: bool) -> list[Field]:
        """The fields of an answer for this client."""
        self._learn(reply)
        fields = self._rewriting.to_client(reply.fields, exchange.host)
        return isolated(fields, method=exchange.method, status=reply.code, is_page=is_page)

    def _learn(self, reply: Reply) -> None:
        for challenge in parse_challenges(reply.values("WWW-Authenticate")):
            path = self._rewriting.path_behind(challenge.parameters.get("realm", ""))
            if path is not None and len(self._realms) < _MOST_REALMS:
                self._realms.add(path)
