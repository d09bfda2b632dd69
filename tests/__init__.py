"""Tests mirror the tree of the program, file for file."""

import os

from hypothesis import settings

#: So many examples for each property, chosen at random. Without it they are the same ones every time: what a
#: commit is worth must not depend on luck.
_EXAMPLES = os.environ.get("CONTENTCACHE_EXAMPLES")

# How long an example takes says something of the machine, not of the program.
settings.register_profile("contentcache", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, max_examples=int(_EXAMPLES or 100), print_blob=True)
settings.load_profile("random" if _EXAMPLES else "contentcache")
