"""
Why a store or an index cannot be used, in sentences for the operator.

A disk that fails raises ``OSError``; these are for what no retry will mend.
"""

from __future__ import annotations


class StorageRefused(Exception):
    """Something on disk is not as this daemon needs it. The text says what to do."""


class StoreLocked(StorageRefused):
    """Another process has the root directory."""


class IndexDamaged(StorageRefused):
    """The index contradicts itself. Nothing more is read from it; it is made anew when it is next opened."""


class IndexTooNew(StorageRefused):
    """The index was written by a version of this program that is newer than this one."""
