"""
Tests mirror the tree of the program, file for file.
"""

from hypothesis import settings

# How long an example takes says something of the machine, not of the program.
settings.register_profile("contentcache", deadline=None)
settings.load_profile("contentcache")
