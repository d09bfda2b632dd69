"""What the configuration holds: frozen values, each field with the description of its key."""
