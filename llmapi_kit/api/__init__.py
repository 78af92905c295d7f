"""The HTTP API: an ASGI application over engines. Knows nothing of threads, notebooks or models."""
