"""${message}

Revision: ${up_revision}, after ${down_revision | comma,n}.

Before this is merged:
- it is additive, or it copies data before it drops anything, and `downgrade` gives the data back;
- it runs on SQLite and on PostgreSQL, up, down and up again, on tables with rows in them;
- every constraint and index has a name (`op.f` keeps it as written);
- a new NOT NULL column has a `server_default`, or is filled before it is made NOT NULL;
- on SQLite a change of an existing table goes through `op.batch_alter_table`, which copies it;
- an index on a big PostgreSQL table is built CONCURRENTLY, in a revision of its own;
- it imports nothing from `catalog`: the code will change, what ran once will not;
- `REVISION` in catalog/models.py is set to it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
