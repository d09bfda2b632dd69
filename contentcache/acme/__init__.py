"""Certificates that come by themselves (ACME, RFC 8555), and are there before the old ones end."""
