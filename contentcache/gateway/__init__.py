"""The origin's half: what stands before a registry, signs URLs and sends clients to their caches."""
