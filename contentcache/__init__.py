"""
Content Cache: a pull-through cache for container images.

The origin registry decides who may pull what and what a tag means; this daemon
stores the blobs near the people who pull.
"""

__version__ = "0.1.0"
