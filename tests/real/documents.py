"""
Documents that are done as they are read: their files are written, and what they type is typed.

A block of code whose first line is a comment with a place, ``# machine other:/folder/file``, is that file.
In a block ``console``, a line that begins with ``machine$`` is typed there, as are those after it that a
backslash continues; the lines below are what it must answer. In answers

* ``…`` is whatever stands there, a line that is ``…`` alone any lines, or none;
* a UUID stands for the one that was answered, from then on and in commands too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import field, frozen

_CODE = re.compile(r"\.\. code-block:: (\S+)")
_RULE = re.compile(r"([=-])\1{3,}")
_PLACE = re.compile(r"# ([a-z- ]+):(/\S+)")
_PROMPT = re.compile(r"([a-z-]+)\$ (.*)", re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@frozen
class Written:
    """A file on ``machines``."""

    machines: tuple[str, ...]
    path: str
    content: str


@frozen
class Typed:
    """A command on ``machine``, and the lines that it must answer."""

    machine: str
    command: str
    answer: tuple[str, ...]


Step = Written | Typed


@frozen
class Values:
    """What the document's UUIDs are in truth."""

    known: dict[str, str] = field(factory=dict)

    def put_into(self, text: str) -> str:
        """A command with the true ones."""
        return _UUID.sub(lambda match: self.known.get(match[0], match[0]), text)

    def matches(self, expected: Sequence[str], answer: str) -> bool:
        """
        Whether an answer is as written; if so, its UUIDs are known.

        >>> values = Values()
        >>> values.matches(["…", "all …!"], "one\\ntwo\\nall is well!\\n"), values.matches([], "oh")
        (True, False)
        """
        named: list[str] = []

        def escaped(text: str) -> str:
            return re.escape(text).replace("…", r"[^\n]*")

        def uuid(written: str) -> str:
            if written in self.known:
                return re.escape(self.known[written])
            if written in named:
                return rf"(?P=v{named.index(written)})"
            named.append(written)
            return rf"(?P<v{len(named) - 1}>{_UUID.pattern})"

        lines: list[str] = []
        for line in expected:
            if line == "…":
                lines.append(r"(?:[^\n]*\n)*?")
                continue
            found, texts = _UUID.findall(line), _UUID.split(line)
            parts = [part for text, one in zip(texts, [*found, ""], strict=True) for part in (text, one)]
            lines.append("".join(uuid(part) if part in found else escaped(part) for part in parts) + r"\n")
        answer = answer.replace("\r\n", "\n").removesuffix("\n")
        match = re.fullmatch("".join(lines), answer + "\n" if answer else "")
        if match is not None:
            self.known.update({written: match[f"v{number}"] for number, written in enumerate(named)})
        return match is not None


def chapters(document: Path) -> dict[str, list[Step]]:
    """
    The steps of a document below each title of the first level, in their order; what comes before the first
    one is below ``""``.
    """
    found: dict[str, list[Step]] = {"": []}
    lines = document.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        line, rule = lines[number], lines[number + 1] if number + 1 < len(lines) else ""
        code = _CODE.fullmatch(line)
        if code is not None:
            block, number = _block(lines, number + 1)
            list(found.values())[-1].extend(_steps(code[1], block, document))
            continue
        overlined = number > 0 and _RULE.fullmatch(lines[number - 1]) is not None
        if line and not overlined and rule.startswith("===") and len(rule) >= len(line):
            found[line] = []
        number += 1
    return found


def _block(lines: Sequence[str], start: int) -> tuple[list[str], int]:
    """The lines that are indented from ``start`` on, without their margin; and where the text goes on."""
    end = start
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    block = [line.removeprefix("    ") for line in lines[start:end]]
    while block and not block[0]:
        block.pop(0)
    while block and not block[-1]:
        block.pop()
    return block, end


def _steps(language: str, block: Sequence[str], document: Path) -> Iterator[Step]:
    if language != "console":
        place = _PLACE.fullmatch(block[0])
        assert place is not None, f"{document}: this block says not which file it is:\n{block[0]}"
        yield Written(tuple(place[1].split()), place[2], "\n".join([*block[1:], ""]))
        return
    machine, command, answer = "", "", list[str]()
    for line in block:
        prompt = _PROMPT.fullmatch(line)
        if prompt is not None:
            if command:
                yield Typed(machine, command, tuple(answer))
            machine, command, answer = prompt[1], prompt[2], []
        elif command.endswith("\\") and not answer:
            command += "\n" + line
        else:
            assert command, f"{document}: nobody has typed for this answer:\n{line}"
            answer.append(line)
    yield Typed(machine, command, tuple(answer))
