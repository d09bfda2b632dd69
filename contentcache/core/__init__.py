"""
Decisions without I/O: no reactor, no clock, no files, no randomness.

Times, keys and bytes are arguments.
"""
