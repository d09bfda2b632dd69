"""The gateway: a reverse proxy before a registry that redirects clients to caches by signed URLs."""
