"""Tests for :mod:`contentcache.admin`."""
