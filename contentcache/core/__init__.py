"""
Decisions without I/O: no reactor, no clock, no files, no randomness.

Everything here is told the time, the keys and the bytes.
"""
