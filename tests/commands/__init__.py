"""Tests for :mod:`contentcache.commands`."""
