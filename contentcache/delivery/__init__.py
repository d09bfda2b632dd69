"""From what is asked to bytes: who may have what, one fetch for all, its readers."""
