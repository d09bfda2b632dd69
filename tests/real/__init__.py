"""Whole-system tests: the daemon between real registries and real clients, on loopback only."""
