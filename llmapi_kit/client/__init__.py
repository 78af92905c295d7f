"""Clients of a running server, from another kernel or another machine. They speak HTTP and know nothing of its insides.

`RemoteServer` leads to official OpenAI clients; `LLMClient` speaks the older session API.
"""

from llmapi_kit.client.llm_client import LLMClient
from llmapi_kit.client.remote import RemoteServer, mask, normalise_url

__all__ = ["LLMClient", "RemoteServer", "mask", "normalise_url"]
