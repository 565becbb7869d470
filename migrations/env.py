"""How Alembic reaches the catalog: on the connection ``cogcat init`` hands over, or by itself."""

from __future__ import annotations

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from catalog.database import migration_connection, open_engine
from catalog.models import Base
from catalog.settings import load_settings


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        # SQLite changes most things about a table only by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
        # Our SQLite transactions are real (see catalog.database), schema included.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("no --sql: the migrations ask the database what is there")

given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    engine = open_engine(load_settings().database)
    try:
        with migration_connection(engine) as own:
            run(own)
    finally:
        engine.dispose()
