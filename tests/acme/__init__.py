"""Tests for :mod:`contentcache.acme`."""
