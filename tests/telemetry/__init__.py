"""Tests for :mod:`contentcache.telemetry`."""
