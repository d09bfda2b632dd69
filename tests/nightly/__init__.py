"""
What takes too long for every change, and runs once a night: ``make nightly``.

Each module here is one part, named after what it checks and not ``test_…``, so that ``make test`` passes it
over. It has ordinary test cases. ``MINUTES`` in the environment is how long a part without an own end runs.
"""

from __future__ import annotations

import os
import pkgutil

#: Minutes for each part that has no end of its own.
MINUTES = float(os.environ.get("MINUTES", "20"))


def parts() -> list[str]:
    """The names of all parts, in order."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith(("_", "test_"))
    )
