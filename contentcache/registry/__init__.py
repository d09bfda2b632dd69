"""The registry API of the distribution spec: routes, admission, origins, responses, fast path."""
