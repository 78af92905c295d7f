"""Models that answer elsewhere: providers and servers with an OpenAI-compatible API, as engines."""
