"""Who can answer a request: local models, the mock, and, later, upstream providers."""
