"""OpenAI's Responses API: items in place of messages, and responses that the server remembers."""
