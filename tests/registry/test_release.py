"""
Nothing of an answer is left behind: no descriptor, hold, reader, subscriber or connection.

The whole cache is here, as in :mod:`tests.registry.test_fast_path`. One test makes each call of a function raise in
turn, another lets the client disconnect at each point where its answer waits.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from contentcache.core.ranges import Span
from contentcache.core.response_end import CLIENT_DISCONNECTED
from contentcache.registry.remaining_body import RemainingBody
from tests.delivery.in_memory import MANIFEST, REPOSITORY
from tests.registry.harness import Broken, Client, request
from tests.registry.test_fast_path import CONTENT, CacheTestCase

_OURS: Final = (
    *(os.path.join("contentcache", part) + os.sep for part in ("server", "registry", "delivery")),
    os.path.join("contentcache", "upstream", "inflow_queue.py"),
)
#: What releases, and tells that: it is what is relied upon after a fault.
_RELEASING: Final = frozenset(
    {
        "abandon",
        "cancel",
        "close",
        "closed",
        "connectionLost",
        "unsubscribe",
        "end",
        "end_short",
        "flush",
        "log",
        "release",
        "stop",
        "_end",
        "_record",
        "__enter__",
        "__exit__",
    }
)
#: A download, which goes on without this client, and answers for its own faults.
_DOWNLOADS: Final = (
    "delivery/download.py",
    "delivery/download_file.py",
    "delivery/download_steps.py",
    "delivery/download_storage.py",
    "delivery/download_stream.py",
    "delivery/body_writer.py",
    "delivery/segments.py",
)
_MANIFEST: Final = b'{"schemaVersion":2,"mediaType":"%b","config":{},"layers":[]}' % MANIFEST.encode()


class _Faults:
    """Makes the call number ``at`` raise; ``calls`` counts them, and ``where`` names the one that has raised."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0
        self.where = ""

    @contextmanager
    def injected(self) -> Iterator[None]:
        """While this lasts."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: Any, event: str, _argument: object) -> None:
        code = frame.f_code
        if self.where or event != "call" or not any(part in code.co_filename for part in _OURS):
            return
        if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR) and frame.f_lasti > 8:
            return  # it goes on, which is no call
        above = frame
        while above is not None:
            if above.f_code.co_name in _RELEASING and any(part in above.f_code.co_filename for part in _OURS):
                return
            if above.f_code.co_name == "_run_download" or above.f_code.co_filename.endswith(_DOWNLOADS):
                return
            above = above.f_back
        self.calls += 1
        if self.calls == self.at:
            self.where = f"{code.co_filename}:{code.co_name}"
            raise Broken(self.where)


class _Gate:
    """Runs the work of threads at once, or when it is told to."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    async def __call__(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        work = partial(function, *args, **named)
        if not self.closed:
            return work()
        done: Deferred[Any] = Deferred()
        self._waiting.append((work, done))
        return await done

    def step(self) -> bool:
        """Let one go on; whether there was one. It does its work even if nobody waits for it any more."""
        if not self._waiting:
            return False
        work, done = self._waiting.pop(0)
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  # it is whoever waits who gets it
            done.errback(error)
        else:
            done.callback(result)
        return True

    def open(self) -> None:
        """Let everything go on."""
        self.closed = False
        while self.step():
            pass


class _BrokenChannel:
    """As much of a channel as the rest of an answer needs; one of its methods may be ``broken``."""

    def __init__(self, broken: str) -> None:
        self.transport = self
        self.file_bytes_sent = 0
        self.lost_by = CLIENT_DISCONNECTED
        self._broken = broken
        self.ended = 0
        self.sending: Deferred[int] = Deferred()

    def occupy(self, _rest: object) -> None:
        self._call("occupy")

    def send_file(self, _descriptor: int, _start: int, _stop: int) -> Deferred[int]:
        self._call("send_file")
        return self.sending

    def requestDone(self, _rest: object) -> None:
        self._call("requestDone")

    def start(self) -> None:
        self._call("start")

    def stop(self) -> None:
        self._call("stop")

    def end(self) -> None:
        self.ended += 1

    def _call(self, name: str) -> None:
        if name == self._broken:
            raise Broken(name)


class ReleaseTests(CacheTestCase):
    """The slow way."""

    def setUp(self) -> None:
        self.gate = _Gate()
        super().setUp()
        self.many = 0
        origin = self.there.origin
        self.manifest = origin.put_manifest(REPOSITORY, _MANIFEST, MANIFEST, "1")
        self.manifests = f"/v2/{REPOSITORY}/manifests/"

    def build(self, **options: Any) -> None:
        """With work in threads that can be held up."""
        super().build(run=self.gate, **options)

    def new_blob(self) -> str:
        """The path of a blob that is not stored."""
        self.many += 1
        digest = self.there.origin.put_blob(REPOSITORY, b"%d" % self.many + CONTENT)
        return f"/v2/{REPOSITORY}/blobs/{digest}"

    def ways(self) -> Mapping[str, Callable[[], tuple[str, ...]]]:
        """ParsedTarget and fields of each kind of answer."""
        return {
            "stored": lambda: (self.path,),
            "range": lambda: (self.path, "Range: bytes=3-9"),
            "multipart": lambda: (self.path, "Range: bytes=3-9,20-30"),
            "settled": lambda: (self.path, f'If-None-Match: "{self.digest}"'),
            "manifest": lambda: (self.manifests + str(self.manifest), f"Accept: {MANIFEST}"),
            "tag": lambda: (self.manifests + "1", f"Accept: {MANIFEST}"),
            "growing": lambda: (self.new_blob(),),
            "part of growing": lambda: (self.new_blob(), "Range: bytes=3-9"),
            "list": lambda: (f"/v2/{REPOSITORY}/tags/list",),
        }

    def open_files(self) -> list[str]:
        """Files of the store that are open."""
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own
                found.append(os.readlink(f"/proc/self/fd/{name}"))
        return [path for path in found if path.startswith(os.path.abspath(self.root))]

    def held(self) -> dict[str, Any]:
        """All that answers may hold."""
        blob_service: Any = self.there.blob_service
        return {
            "descriptors": len(self.open_files()) - len(blob_service.hot_blobs),
            "holds": [
                kept.readers for kept in blob_service.hot_blobs._blobs._entries.values() if kept.readers
            ],
            "readers": dict(blob_service._usage._readers),
            "downloads": len(list(blob_service.downloads)),
            "bodies of upstream": len(self.there.wire.open),
            "connections": (self.factory.connections, dict(self.factory._addresses)),
            "waiting heads": dict(self.factory._heads_by_address),
        }

    def settle(self) -> None:
        """Let time go by until nothing happens any more."""
        for _ in range(6):
            self.there.clock.pump([0.25, 0.25])
        self.there.clock.pump([30.0] * 6)
        store: Any = self.there.store
        store._closer.submit(int).result()  # files without a name are closed in a thread
        self.flushLoggedErrors()

    def client(self) -> Client:
        """Somebody who asks."""
        return Client(self.factory)

    def test_fault_at_each_step(self) -> None:
        """
        Whichever call of a function raises, everything that the answer held is given back, and there is at
        most one line in the access log; the next answer is right.
        """
        for name, way in self.ways().items():
            self._go(self.client(), way())
            self.settle()
            before, at = self.held(), 0
            while True:
                at += 1
                faults = _Faults(at)
                target = way()
                self.forget()
                client = self.client()
                with faults.injected():
                    try:
                        client.send(self._text(target))
                        self.there.clock.pump([0.25] * 4)
                    except Broken:
                        pass  # into the reactor, which closes the connection
                client.leave()
                self.settle()
                self.assertEqual(self.held(), before, (name, at, faults.where))
                self.assertLessEqual(len(self.lines), 1, (name, at, faults.where))
                if not faults.where:
                    break
            self.assertGreater(at, 20, name)
            self.assertEqual(self.ask(self.ann).body, CONTENT)

    def test_client_leaves_at_each_wait(self) -> None:
        """
        Whenever a client disconnects, while a thread works or while it takes nothing, everything that its
        answer held is given back, and the access log has one line.
        """
        for name, way in self.ways().items():
            self._go(self.client(), way())
            self.settle()
            before = self.held()
            for stalled in (False, True):
                steps, busy = 0, True
                while busy and steps < 30:
                    target = way()
                    self.forget()
                    self.gate.closed = True
                    client = self.client().send(self._text(target))
                    for _ in range(steps):
                        if stalled and client.producer is not None:
                            client.producer.pauseProducing()
                        if not self.gate.step():
                            self.there.clock.advance(0.25)
                    busy = client.channel.busy
                    client.leave()
                    self.gate.open()
                    self.settle()
                    self.assertEqual(self.held(), before, (name, stalled, steps))
                    self.assertEqual(len(self.lines), 1, (name, stalled, steps))
                    steps += 1
        self.assertEqual(self.ask(self.ann).body, CONTENT)

    def _text(self, way: tuple[str, ...]) -> str:
        target, *fields = way
        return request(target, f"Authorization: {self.ann}", *fields)

    def _go(self, client: Client, way: tuple[str, ...]) -> None:
        client.send(self._text(way))
        self.there.clock.pump([0.25] * 4)
        client.leave()


class FastReleaseTests(ReleaseTests):
    """The fast way, where there is one."""

    fast = True

    def test_rest(self) -> None:
        """Whichever step of sending the rest of a hot blob fails, its hold is given back once and noted once."""
        hot_blobs: Any = self.there.blob_service.hot_blobs
        (kept,) = hot_blobs._blobs._entries.values()
        before = self.held()
        for broken in ("occupy", "start", "send_file", "stop", "requestDone", "acquire"):
            channel: Any = _BrokenChannel(broken)
            noted: list[int] = []
            note: Any = lambda sent, _end, noted=noted: noted.append(sent)  # noqa: E731
            rest = RemainingBody(
                channel, hot_blobs, kept, Span(0, 100, 1000), stall_timer=channel, record=note
            )
            if broken == "acquire":
                self.patch(self.there.blob_service._usage, "_on_use", _raise)
            try:
                rest.send(10)
                channel.sending.callback(90)
            except Broken:
                pass
            self.assertEqual(channel.ended, 1 if broken in {"stop", "requestDone"} else 0, broken)
            rest.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(noted, [100 if channel.sending.called else 10], broken)
            self.assertEqual(self.held(), before, broken)
            self.flushLoggedErrors(Broken)


def _raise(_digest: object) -> None:
    raise Broken("noticed")
