"""Certificates and contexts, ours and those that we trust."""
