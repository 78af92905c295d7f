"""Continuous batching: requests in, one batch of events a step out. Pure Python; no HTTP, no asyncio, no model."""
