"""Who may have what where the operator lets this cache judge: registry tokens, or a file of passwords."""
