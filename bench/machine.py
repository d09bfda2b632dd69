"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import ssl
from pathlib import Path

from tests.real.programs import run


def machine() -> dict[str, object]:
    """Processors, memory, and the versions of what takes part; figures of two machines are no ratios."""
    processors = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return {
        "processors": f"{os.cpu_count()} x {processors[0] if processors else platform.machine()}",
        "memory": f"{memory} GiB",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
        "nginx": _version("nginx", "-v"),
        "docker-registry": _version("docker-registry", "--version"),
    }


def _version(*words: str) -> str:
    done = run(words, check=False)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else "?"
