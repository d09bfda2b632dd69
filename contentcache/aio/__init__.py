"""How coroutines wait for each other and for threads: one home for each mechanism."""
