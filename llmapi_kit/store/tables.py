"""The tables as they are now; how older ones become these stands in `migrations`.

Texts of clients are kept as bytes: text of Postgres can't hold every character that JSON can.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

REVISION = "0005"
"""The last of the migrations, which makes these tables."""


class Utf8(TypeDecorator[str]):
    """Any text, kept as its bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        """Into the database; half of a surrogate pair too."""
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: bytes | None, dialect: Any) -> str | None:
        """Out of it."""
        return None if value is None else value.decode("utf-8", "surrogatepass")


metadata = MetaData()

# A database of Postgres may be shared with other programs, so every name says whose table it is.
version = Table("llmapi_kit_version", metadata, Column("version_num", String(32), primary_key=True))

sessions = Table(
    "llmapi_kit_sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("bot_type", Utf8, nullable=False),
    Column("settings", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("used_at", Float(53), nullable=False),
    Column("num_turns", Integer, nullable=False),
    Index("llmapi_kit_sessions_of_owner", "owner"),
    Index("llmapi_kit_sessions_by_use", "used_at"),
)

turns = Table(
    "llmapi_kit_turns",
    metadata,
    Column("session_id", String(32), ForeignKey(sessions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("content", Utf8, nullable=False),
    Column("num_tokens", Integer, nullable=False),
)

usage = Table(
    "llmapi_kit_usage",
    metadata,
    Column("hour", Integer, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("embedding_tokens", BigInteger, nullable=False),
    Column("images", BigInteger, nullable=False),
    Index("llmapi_kit_usage_of_owner", "owner"),
)

# Which of its batches of counts a server has written last: one that fails is sent again, and counted once.
usage_batches = Table(
    "llmapi_kit_usage_batches",
    metadata,
    Column("writer", String(32), primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("written_at", Float(53), nullable=False),
)

completions = Table(
    "llmapi_kit_completions",
    metadata,
    Column("id", String(64), primary_key=True),  # sorts by when it was made
    Column("owner", Text, nullable=False),
    Column("model", Utf8, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("messages", LargeBinary, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("stored_at", Float(53), nullable=False),
    Index("llmapi_kit_completions_of_owner", "owner", "id"),
    Index("llmapi_kit_completions_by_time", "stored_at"),
)

# A pair of a completion's metadata each, to find it by.
completion_labels = Table(
    "llmapi_kit_completion_labels",
    metadata,
    Column("completion_id", String(64), ForeignKey(completions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("name", Utf8, primary_key=True),
    Column("value", Utf8, nullable=False),
)

# Teammates' keys, as digests; the code of an invitation that nobody has exchanged yet, too.
keys = Table(
    "llmapi_kit_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("server", Utf8, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, unique=True),
    Column("prefix", String(32), nullable=False),
    Column("code_digest", LargeBinary, unique=True),
    Column("code_expires_at", Float(53)),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("revoked_at", Float(53)),
    Column("is_paused", Boolean, nullable=False),
    Column("models", Text),
    Column("rpm", BigInteger),
    Column("tpm", BigInteger),
    Column("concurrency", BigInteger),
    Column("budget", BigInteger),
    Index("llmapi_kit_keys_of_server", "server"),
)

# Goes up with every change of a server's keys, so that who holds them in memory need not read them all to see one.
key_revisions = Table(
    "llmapi_kit_key_revisions",
    metadata,
    Column("server", Utf8, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

# What keys with limits use now, for all servers with this database. A lease is a request that runs.
key_minutes = Table(
    "llmapi_kit_key_minutes",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)

key_leases = Table(
    "llmapi_kit_key_leases",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("key_id", String(32), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Index("llmapi_kit_key_leases_of_key", "key_id"),
)

responses = Table(
    "llmapi_kit_responses",
    metadata,
    Column("id", String(64), primary_key=True),  # sorts by when it was made
    Column("owner", Text, nullable=False),
    Column("previous_id", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Column("events", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("stored_at", Float(53), nullable=False),
    Index("llmapi_kit_responses_of_owner", "owner", "id"),
    Index("llmapi_kit_responses_by_time", "stored_at"),
)
