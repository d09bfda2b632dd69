"""Tests for :mod:`contentcache.gateway`."""
