"""The configuration: the registry's file format, read into frozen values."""
