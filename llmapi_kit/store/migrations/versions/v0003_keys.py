"""Teammates' keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them, and find usage by its key."""
    op.create_table(
        "llmapi_kit_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("server", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, unique=True),
        sa.Column("prefix", sa.String(32), nullable=False),
        sa.Column("code_digest", sa.LargeBinary, unique=True),
        sa.Column("code_expires_at", sa.Float(53)),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("expires_at", sa.Float(53)),
        sa.Column("revoked_at", sa.Float(53)),
        sa.Column("is_paused", sa.Boolean, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("rpm", sa.BigInteger),
        sa.Column("tpm", sa.BigInteger),
        sa.Column("concurrency", sa.BigInteger),
        sa.Column("budget", sa.BigInteger),
    )
    op.create_index("llmapi_kit_keys_of_server", "llmapi_kit_keys", ["server"])
    op.create_table(
        "llmapi_kit_key_revisions",
        sa.Column("server", sa.LargeBinary, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("llmapi_kit_usage_of_owner", "llmapi_kit_usage", ["owner"])
