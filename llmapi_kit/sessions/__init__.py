"""Conversations that the server keeps: bots, what is said to them, and what may be let through. Knows no HTTP."""
