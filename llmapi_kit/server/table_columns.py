"""What the tables of a server's requests and usage show, and in which units."""

from __future__ import annotations

from llmapi_kit import tables

REQUEST_COLUMNS: tables.Columns = {
    "id": ("Id", tables.text),
    "key": ("Key", tables.text),
    "model": ("Model", tables.text),
    "state": ("State", tables.text),
    "prompt_tokens": ("Prompt tokens", tables.count),
    "completion_tokens": ("Tokens so far", tables.count),
    "seconds": ("Since", tables.seconds),
}
USAGE_COLUMNS: tables.Columns = {
    "date": ("Day (UTC)", tables.text),
    "model": ("Model", tables.text),
    "requests": ("Requests", tables.count),
    "failed": ("Failed", tables.count),
    "cancelled": ("Cancelled", tables.count),
    "prompt_tokens": ("Prompt tokens", tables.count),
    "cached_tokens": ("Cached", tables.count),
    "completion_tokens": ("Tokens made", tables.count),
}
