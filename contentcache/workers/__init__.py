"""Several processes over one store: a parent that tends it, and children that serve from it."""
