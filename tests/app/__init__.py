"""Tests for :mod:`contentcache.app`."""
