"""What Alembic runs to get at the database: the connection it was given, in the transaction that is open there."""

from __future__ import annotations

from alembic import context

from llmapi_kit.store.tables import metadata, version

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=version.name,
    render_as_batch=True,  # SQLite changes few things of a table in place
)
context.run_migrations()
