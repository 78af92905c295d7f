"""Measures this server, and others beside it. Run the modules: ``python -m benchmarks.serving --help``."""
