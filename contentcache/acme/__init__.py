"""Certificates from an ACME server (RFC 8555), renewed before they expire."""
