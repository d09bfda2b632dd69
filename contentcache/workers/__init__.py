"""Several processes over one store: a supervisor that maintains it, and workers that serve clients from it."""
