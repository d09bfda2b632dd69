"""The admin site: the API of the gateway, and its pages for accounts and administrators."""
