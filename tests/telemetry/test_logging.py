"""What the daemon says, and what it never says."""

from __future__ import annotations

import json
from io import BytesIO, StringIO, TextIOWrapper
from typing import Literal
from unicodedata import category
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Level, Log
from contentcache.core.live import Live
from contentcache.core.response_end import COMPLETE
from contentcache.server.access_log import AccessLogEntry
from contentcache.telemetry.logging import LogWriter, event_text, log_observer, sanitize

SECRET = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.c2ln"
_FORMATTERS = ("text", "json")


def written(event: LogEvent, formatter: Literal["text", "json"] = "text", **fields: object) -> str:
    """What a journal writes of ``event``."""
    # As strict as standard output is: what cannot be encoded would be lost.
    raw = BytesIO()
    stream = TextIOWrapper(raw, "utf-8", newline="")
    LogWriter(stream, Live(Log(formatter=formatter, fields=fields)))(event)
    stream.flush()
    return raw.getvalue().decode("utf-8")


def said(message: str, **more: object) -> LogEvent:
    """An event with a message that may hold anything."""
    return {
        "log_format": "{message}",
        "message": message,
        "log_time": 0.0,
        "log_level": LogLevel.warn,
        **more,
    }


def logged(phrase: str, **fields: object) -> LogEvent:
    """An event of this program."""
    return {
        **fields,
        "log_namespace": "contentcache.x",
        "log_format": phrase,
        "log_time": 0.0,
        "log_level": LogLevel.warn,
    }


def access(**changes: str) -> LogEvent:
    """An answered request."""
    strings = {"address": "::1", "method": "GET", "uri": "/v2/", "protocol": "HTTP/1.1", "referer": "-"}
    strings |= {"agent": "curl", "cache": "hit", "upstream": "https://r"} | changes
    entry = AccessLogEntry(
        user="alice",
        request_id="abc",
        **strings,
        timestamp=0.0,
        status=200,
        seconds=0.25,
        sent=5,
        length=5,
        end=COMPLETE,
        first_byte=0.25,
    )
    return {"log_format": "", "log_time": 0.0, "log_level": LogLevel.info, "access": entry}


class SanitizeTests(SynchronousTestCase):
    """What strangers send."""

    def test_tokens(self) -> None:
        """No value of ``token`` is left, however its name is written and whatever stands around it."""
        for text in [
            f"/v2/a/blobs/b?token={SECRET}",
            f"/v2/a/blobs/b?n=1&token={SECRET}&last=2",
            f"/v2/?TOKEN={SECRET}",
            f"/v2/?%74oken={SECRET}",
            f"/v2/?t%6F%6bEn={SECRET}",
            f"/v2/?token={SECRET}&token={SECRET}",
            f"/v2/?token=#{SECRET}",
            f"/v2/?token=\x0b{SECRET}",
            f"/v2/?access_token={SECRET}",
            f"https://r/?next={quote(f'/v2/?token={SECRET}', safe='')}",
            f"token={SECRET}",
            f'{{"uri": "token={SECRET}"}}',
            f"/v2/?{'a' * 1010}&token={SECRET}",
        ]:
            with self.subTest(text=text[:40]):
                self.assertNotIn(SECRET[:8], sanitize(text))
                self.assertNotIn("c2VjcmV0", sanitize(text))

    def test_passwords(self) -> None:
        """An address loses the name and the password in it, in a request as in a message."""
        text = "http://user:pass@proxy:3128/a@b?c=d@e"
        self.assertEqual(sanitize(text), "http://***@proxy:3128/a@b?c=d@e")
        self.assertIn(" http://***@proxy:3128/", written(said(f"no answer of {text}")))

    def test_the_rest_stays(self) -> None:
        """What is no secret can be read."""
        for text in ["/v2/tokens/manifests/1?ns=a%2Fb", "/v2/?n=1&token=***&last=2", "Mozilla/5.0 (X11; é)"]:
            self.assertEqual(sanitize(text), text)

    @settings(deadline=None)
    @given(st.text(max_size=80), st.integers(1, 40))
    def test_any_text(self, text: str, longest: int) -> None:
        """The result is short, on one line, can be encoded, and cannot leave its quotes."""
        found = sanitize(text, longest)
        self.assertLessEqual(len(found), longest + 1)
        self.assertLessEqual(len((found + ".").splitlines()), 1)
        self.assertFalse({'"', "\\"} & set(found))
        self.assertFalse({category(character) for character in found} & {"Cc", "Cs", "Zl", "Zp"})
        found.encode()


class LogWriterTests(SynchronousTestCase):
    """One line an event."""

    def test_access_text(self) -> None:
        """Apache's combined form, then what a cache has to add."""
        self.assertEqual(
            written(access()),
            '::1 - alice [01/Jan/1970:00:00:00 +0000] "GET /v2/ HTTP/1.1" 200 5 "-" "curl" '
            'cache="hit" seconds=0.250 upstream=https://r sent=5 of=5 end=complete '
            "served_by=- request_id=abc download=-\n",
        )

    def test_access_json(self) -> None:
        """The same for machines, with the operator's own fields."""
        found = json.loads(written(access(), "json", site="west"))
        self.assertEqual(found["time"], "1970-01-01T00:00:00.000+00:00")
        self.assertEqual((found["msg"], found["level"], found["site"]), ("access", "info", "west"))
        self.assertEqual(
            (found["uri"], found["status"], found["bytes"], found["seconds"]), ("/v2/", 200, 5, 0.25)
        )

    def test_worker(self) -> None:
        """The lines of a worker have its number, in both forms, events and accesses."""
        for formatter, ends in (("text", " worker=3\n"), ("json", '"worker": 3}\n')):
            stream = StringIO()
            chosen = Log(formatter=formatter)  # type: ignore[arg-type]
            journal = LogWriter(stream, Live(chosen), 3)
            journal(access())
            journal(said("so it is"))
            first, second = stream.getvalue().splitlines(keepends=True)
            self.assertTrue(first.endswith(ends), first)
            self.assertTrue(second.endswith(ends), second)

    def test_message(self) -> None:
        """Time, level, message, the operator's own fields."""
        self.assertEqual(
            written(said("so it is"), site="west"), "1970-01-01T00:00:00.000+00:00 warn  so it is site=west\n"
        )
        self.assertEqual(json.loads(written(said("so it is"), "json"))["msg"], "so it is")

    def test_event(self) -> None:
        """An event of this program: its phrase, then its fields in the order given, the operator's own last."""
        event = logged(
            "blob evicted", digest="sha256:aa", bytes=5, reason="too old", upstream=None, for_=1.25
        )
        self.assertEqual(
            written(event, site="west"),
            "1970-01-01T00:00:00.000+00:00 warn  blob evicted digest=sha256:aa bytes=5 "
            'reason="too old" upstream=- for=1.25 site=west\n',
        )
        found = json.loads(written(event, "json", site="west"))
        self.assertEqual(
            list(found.values())[2:], ["blob evicted", "sha256:aa", 5, "too old", None, 1.25, "west"]
        )
        self.assertEqual(list(found)[2:], ["msg", "digest", "bytes", "reason", "upstream", "for", "site"])

    def test_values(self) -> None:
        """Values that could be taken for something else are in quotes; others are not."""
        for value, text in [
            ("a b", '"a b"'),
            ('say "x"', r'"say \"x\""'),
            ("a\\b", r'"a\\b"'),
            ("one\ntwo", r'"one\ntwo"'),
            ("n=1", '"n=1"'),
            ("", '""'),
            ("-", "-"),
            (True, "true"),
            (30.0, "30"),
            (["a", "b"], "a,b"),
            (OSError("no room"), '"no room"'),
            (OSError(), "OSError"),
            ("\x1b[2J", "?[2J"),
        ]:
            with self.subTest(value=value):
                self.assertEqual(event_text(logged("x", value=value)), f"x value={text}")

    def test_field_secrets(self) -> None:
        """Fields, and the traceback, lose tokens and passwords, in both forms."""
        secret = f"https://u:pass@cache/v2/?token={SECRET}"
        for formatter in _FORMATTERS:
            failure = Failure(ValueError(secret))
            line = written(logged("it failed", url=secret, log_failure=failure), formatter)  # type: ignore[arg-type]
            self.assertNotIn("c2VjcmV0", line)
            self.assertNotIn("u:pass", line)
            self.assertEqual(line.count("https://***@cache/v2/?token=***"), 2)

    def test_event_failure(self) -> None:
        """A traceback follows the fields; in JSON it is a member of its own."""
        event = logged("it failed", digest="sha256:aa", log_failure=Failure(ValueError("what")))
        self.assertIn(r" it failed digest=sha256:aa\nTraceback ", written(event))
        found = json.loads(written(event, "json"))
        self.assertEqual((found["msg"], found["digest"]), ("it failed", "sha256:aa"))
        self.assertIn("ValueError: what", found["traceback"])

    def test_events_of_twisted(self) -> None:
        """What is not of this program is a sentence: its keys are no fields."""
        event = logged("{count} ports", count=2) | {"log_namespace": "twisted.x"}
        self.assertTrue(written(event).endswith(" 2 ports\n"))
        self.assertNotIn("count", json.loads(written(event, "json")))

    def test_nothing_to_say(self) -> None:
        """An event without words is no line."""
        self.assertEqual(written({"log_time": 0.0, "log_level": LogLevel.info}), "")

    @settings(deadline=None)
    @given(st.text(max_size=60), st.sampled_from(_FORMATTERS))
    def test_one_line(self, text: str, formatter: Literal["text", "json"]) -> None:
        """Whatever gets into a message, a field or a request, it is one line without control characters."""
        for event in (
            said("x" + text),
            access(uri=text, agent=text),
            said("x", log_failure=Failure(OSError(text))),
            logged("x", value=text, error=OSError(text)),
        ):
            line = written(event, formatter, note=text)
            self.assertEqual(line.count("\n"), 1)
            self.assertEqual(len(line.splitlines()), 1)
            self.assertFalse({category(character) for character in line[:-1]} & {"Cc", "Cs", "Zl", "Zp"})
            if formatter == "json":
                self.assertEqual(json.loads(line)["note"], text)

    def test_no_token(self) -> None:
        """An address in a message, or in an error that is told with its traceback, loses its token."""
        address = f"https://cache/v2/a/blobs/b?token={SECRET}"
        for formatter in _FORMATTERS:
            for event in (
                said(f"cannot get {address} now"),
                said("failed", log_failure=Failure(ValueError(f"bad: {address!r}"))),
            ):
                line = written(event, formatter)  # type: ignore[arg-type]
                self.assertNotIn("c2VjcmV0", line)
                self.assertIn("https://cache/v2/a/blobs/b?token=***", line)

    def test_failure(self) -> None:
        """A defect is told with its traceback."""
        try:
            int("what")
        except ValueError:
            line = written(said("it broke", log_failure=Failure()))
        self.assertIn("it broke\\n", line)
        self.assertIn("test_logging.py", line)
        self.assertIn("ValueError", line)

    def test_odd_fields(self) -> None:
        """Fields that JSON has no word for do not lose the line."""
        self.assertEqual(json.loads(written(said("x"), "json", odd={1}))["odd"], "{1}")


class ObserverTests(SynchronousTestCase):
    """What is left out."""

    def test_levels(self) -> None:
        """What is below the level that is set is not written."""
        levels: list[Level] = ["error", "warn", "info", "debug"]
        for shown, level in enumerate(levels, 1):
            stream = StringIO()
            log = Logger(namespace="contentcache.x", observer=log_observer(stream, Live(Log(level=level))))
            log.error("e")
            log.warn("w")
            log.info("i")
            log.debug("d")
            self.assertEqual(len(stream.getvalue().splitlines()), shown, level)

    def test_small_talk(self) -> None:
        """Twisted's notes on ports and factories are for those who debug."""
        for level, lines in (("info", 0), ("debug", 1)):
            stream = StringIO()
            settings = Live(Log(level=level))  # type: ignore[arg-type]
            log = Logger(namespace="twisted.internet.x", observer=log_observer(stream, settings))
            log.info("starting factory")
            self.assertEqual(len(stream.getvalue().splitlines()), lines)
