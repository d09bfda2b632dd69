"""What people see of the gateway: the API's documentation, their settings, the caches."""
