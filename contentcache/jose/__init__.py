"""
JOSE without I/O: JSON Web Signatures, Keys and Tokens (RFC 7515 to 7519, RFC 7638).

Key sets, times and secrets are arguments; who fetches or watches key sets is above this package.
"""
