"""``python -m contentcache``: the command line; without arguments, the daemon."""

import sys

from contentcache.commands.main import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["serve"], prog_name="contentcache")
