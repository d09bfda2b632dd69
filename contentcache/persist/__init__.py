"""Files that outlast the process: one home for each mechanism; policy stays with the caller."""
