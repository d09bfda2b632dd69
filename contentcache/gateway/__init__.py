"""
The origin's half: what stands before a registry, knows the caches, and sends each account to its own.
"""
