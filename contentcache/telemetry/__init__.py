"""What operators read of a running daemon: log and metrics."""
