"""From requests to bytes: authorization, one download for all clients, and their bodies."""
