"""What is kept: the store has bytes, the index has what is known of them."""
