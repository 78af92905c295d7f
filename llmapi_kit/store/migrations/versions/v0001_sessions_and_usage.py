"""Sessions, their turns, and usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "llmapi_kit_sessions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("bot_type", sa.LargeBinary, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("used_at", sa.Float(53), nullable=False),
        sa.Column("num_turns", sa.Integer, nullable=False),
    )
    op.create_index("llmapi_kit_sessions_of_owner", "llmapi_kit_sessions", ["owner"])
    op.create_index("llmapi_kit_sessions_by_use", "llmapi_kit_sessions", ["used_at"])
    op.create_table(
        "llmapi_kit_turns",
        sa.Column(
            "session_id",
            sa.String(32),
            sa.ForeignKey("llmapi_kit_sessions.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("num_tokens", sa.Integer, nullable=False),
    )
    op.create_table(
        "llmapi_kit_usage",
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in (
                "requests",
                "failed",
                "cancelled",
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "embedding_tokens",
                "images",
            )
        ),
    )
    op.create_table(
        "llmapi_kit_usage_batches",
        sa.Column("writer", sa.String(32), primary_key=True),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("written_at", sa.Float(53), nullable=False),
    )
