"""
Content Cache: a pull-through cache for container images.

The origin registry stays the judge of who may pull what and of what a tag
means; this daemon keeps the blobs near the people who pull.
"""

__version__ = "0.1.0"
