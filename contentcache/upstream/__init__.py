"""The other side of the line: registries and caches that we ask."""
