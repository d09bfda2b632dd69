"""
The command line: ``contentcache COMMAND``.

The exit status is 0 where what was asked for is done, 1 where it is not, 2 for a command line that cannot
be understood, and 3 where the daemon cannot be reached.
"""
