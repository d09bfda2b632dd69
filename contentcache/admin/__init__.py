"""What the daemon tells its operator: the status document, and the API that serves it."""
