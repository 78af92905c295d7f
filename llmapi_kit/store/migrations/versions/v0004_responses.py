"""Stored responses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "llmapi_kit_responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("previous_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("input", sa.LargeBinary, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_at", sa.Float(53), nullable=False),
    )
    op.create_index("llmapi_kit_responses_of_owner", "llmapi_kit_responses", ["owner", "id"])
    op.create_index("llmapi_kit_responses_by_time", "llmapi_kit_responses", ["stored_at"])
