"""Faster ways out, each optional: the plain way beside it does the same."""
