"""Tests for :mod:`contentcache.jose`."""
