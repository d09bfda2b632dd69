"""
Machines in a network of their own, made of the kernel's namespaces: each has its address, its ports from 1
on, its processes, and its own ``/etc``, ``/var/lib`` and ``/run``, which begin as those of the machine that
they are on.

So what a document says can be done as it stands there, with its names, ports and paths. Nothing is seen
outside, and everything is gone at the end. Needs root.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.real.programs import PATIENCE, ROOT, Case, place, plain_environment, run, short_place, until

#: Folders of which every machine has its own, over those that are there.
_OWN: Final = ("/etc", "/var/lib")


def no_machines() -> str | None:
    """Why machines cannot be made here, ``None`` where they can."""
    for name in ("unshare", "nsenter", "ip", "mount"):
        if shutil.which(name, path=plain_environment()["PATH"]) is None:
            return f"needs {name}"
    if os.geteuid() != 0:
        return "needs to be root"
    tries = (
        "ip link add veth0 type veth peer name veth1",
        "mount -t tmpfs none /run && mkdir /run/u /run/w",
        "mount -t overlay none -o lowerdir=/etc,upperdir=/run/u,workdir=/run/w /etc",
    )
    inside = ["unshare", "--net", "--mount", "--pid", "--fork", "bash", "-c"]
    done = run([*inside, " && ".join(tries)], check=False)
    return None if done.returncode == 0 else f"needs namespaces, overlayfs and veth: {done.stderr.strip()}"


class Network:
    """A switch, and the machines at it by their full names; each knows all others by name."""

    def __init__(self, case: Case, names: Sequence[str], *, programs: Mapping[str, str]) -> None:
        self._switch = _Namespaces(case, "--net")
        self._switch.run("ip link add switch type bridge && ip link set switch up && ip link set lo up")
        self.addresses = {name: f"192.0.2.{number}" for number, name in enumerate(names, 1)}
        binaries = _binaries(case, programs)
        self.machines = {name: Machine(case, name, self, binaries) for name in names}

    @property
    def hosts(self) -> str:
        """What is in every machine's ``/etc/hosts``."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        return "\n".join(lines) + "\n"

    def plug_in(self, pid: int, number: int) -> None:
        """Give the machine of a process its network card."""
        self._switch.run(
            f"ip link add port{number} type veth peer name eth0 netns {pid}"
            f" && ip link set port{number} master switch up"
        )


class Machine:
    """One of them: its folder ``home``, and a shell in which somebody types."""

    def __init__(self, case: Case, name: str, network: Network, binaries: Path) -> None:
        self.name = name
        self.address = network.addresses[name]
        self.home = place(case)
        self._case = case
        self._inside = _Namespaces(case, "--net", "--mount", "--pid", "--mount-proc")
        network.plug_in(self._inside.pid, int(self.address.rpartition(".")[2]))
        layers = place(case)
        lines = [f"ip addr add {self.address}/24 dev eth0", "ip link set eth0 up", "ip link set lo up"]
        lines += ["mount -t tmpfs none /run", f"mount -t tmpfs none {layers}"]
        for own in _OWN:
            upper, work = (layers / f"{kind}{own.replace('/', '-')}" for kind in ("upper", "work"))
            lines += [f"mkdir {upper} {work}"]
            lines += [f"mount -t overlay none -o lowerdir={own},upperdir={upper},workdir={work} {own}"]
        self._inside.run(" && ".join(lines))
        self._inside.run(f"rm -f /etc/hosts && printf %s '{network.hosts}' > /etc/hosts")
        self._environment = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(binaries), plain_environment()["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }
        self.shell = self.open_shell()

    def open_shell(self) -> Shell:
        """Another terminal, in the folder ``home``."""
        return Shell(self._case, self._inside.enter("bash", folder=self.home), self._environment)

    def path(self, path: str) -> Path:
        """Where a file of this machine is seen from outside."""
        return Path(f"/proc/{self._inside.pid}/root{path}")


class Shell:
    """A ``bash`` that is typed into: variables and the folder stay from command to command."""

    def __init__(self, case: Case, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plain_environment(env),
        )
        case.addCleanup(self._close)

    def type(self, command: str, *, timeout: float = PATIENCE) -> tuple[int, str]:
        """
        The exit status of a command, and all that it prints.

        :raises AssertionError: it is not done in time.
        """
        assert self._popen.stdin is not None
        mark = f"--{secrets.token_hex(8)}--"
        # Whatever reads standard input finds its end there, and not our next command.
        typed = f"{{ {command}\n}} </dev/null\nprintf '%s %s\\n' '{mark}' $?\n"
        self._popen.stdin.write(typed.encode())
        self._popen.stdin.flush()
        output, _, status = self._read_to(mark, command, timeout).rpartition(mark)
        return int(status), output

    def _read_to(self, mark: str, command: str, timeout: float) -> str:
        assert self._popen.stdout is not None
        read, deadline = b"", time.monotonic() + timeout
        while mark.encode() not in read or not read.endswith(b"\n"):
            ready, _, _ = select.select([self._popen.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._popen.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise AssertionError(f"{command} is not done after {timeout:g} s:\n{read.decode()}")
            read += piece
        return read.decode("utf-8", "replace")

    def _close(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for end in (self._popen.stdin, self._popen.stdout):
            assert end is not None
            end.close()


class _Namespaces:
    """A process that holds namespaces. Where it has one for processes, all of them end with it."""

    def __init__(self, case: Case, *kinds: str) -> None:
        self._kinds = kinds
        argv = ["unshare", *kinds, "--fork", "--kill-child", "sleep", "infinity"]
        self._popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=plain_environment())
        case.addCleanup(self._close)
        children = Path(f"/proc/{self._popen.pid}/task/{self._popen.pid}/children")
        self.pid = int(until(lambda: children.read_text("ascii").split(), "the namespaces")[0])
        until(lambda: "sleep" in Path(f"/proc/{self.pid}/comm").read_text("ascii"), "the namespaces")

    def enter(self, *argv: str, folder: Path | None = None) -> list[str]:
        """The command line that runs ``argv`` inside."""
        entered = [kind for kind in self._kinds if kind != "--mount-proc"]
        return ["nsenter", "--target", str(self.pid), *entered, f"--wd={folder or '/'}", *argv]

    def run(self, script: str) -> None:
        """Run a script inside, as root does it."""
        run([*self.enter("bash", "-c"), script])

    def _close(self) -> None:
        self._popen.kill()  # unshare takes no notice of SIGTERM; the process inside goes with it
        self._popen.wait()


def _binaries(case: Case, programs: Mapping[str, str]) -> Path:
    """A folder with programs of these names, each a line of shell."""
    folder = short_place(case)
    for name, line in programs.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {line} "$@"\n', "utf-8")
        path.chmod(0o755)
    return folder
