"""Stored chat completions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them, and what they are found by."""
    op.create_table(
        "llmapi_kit_completions",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("model", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("messages", sa.LargeBinary, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.Float(53), nullable=False),
    )
    op.create_index("llmapi_kit_completions_of_owner", "llmapi_kit_completions", ["owner", "id"])
    op.create_index("llmapi_kit_completions_by_time", "llmapi_kit_completions", ["stored_at"])
    op.create_table(
        "llmapi_kit_completion_labels",
        sa.Column(
            "completion_id",
            sa.String(64),
            sa.ForeignKey("llmapi_kit_completions.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("name", sa.LargeBinary, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
