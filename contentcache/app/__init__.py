"""The program: command line, twistd plugin, and the one place where everything is built from a configuration."""
