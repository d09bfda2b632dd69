"""The HTTP server: connections, requests, responses, access log. Knows neither cache nor gateway."""
