"""Local authentication: registry tokens, or a file of passwords."""
