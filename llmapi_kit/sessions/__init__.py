"""Conversations that the server remembers: bots, their pre and post steps, and what was said."""
