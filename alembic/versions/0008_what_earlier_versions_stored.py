"""What earlier versions stored otherwise: versions within a job's usage, deltas of decisions without evidence"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
JOBS = sa.table("jobs", sa.column("id", sa.Integer), sa.column("result", JSON))
DECISIONS = sa.table(
    "decisions",
    sa.column("id", sa.Integer),
    sa.column("seed", sa.Integer),
    sa.column("d_acc", sa.Float),
    sa.column("evidence", JSON),
)


def upgrade() -> None:
    connection = op.get_bind()
    in_usage = JOBS.c.result["usage", "result_version"].as_string().is_not(None)
    for job, result in connection.execute(sa.select(JOBS.c.id, JOBS.c.result).where(in_usage)).all():
        for name in ("version", "result_version"):
            result[name] = result["usage"].pop(name, None)
        _set(connection, JOBS, job, result=result)

    is_bare = DECISIONS.c.d_acc.is_not(None) & DECISIONS.c.evidence["seeds"].as_string().is_(None)
    bare = sa.select(DECISIONS.c.id, DECISIONS.c.seed, DECISIONS.c.d_acc).where(is_bare)
    for decision, seed, d_acc in connection.execute(bare).all():
        _set(connection, DECISIONS, decision, evidence={"seeds": [{"seed": seed, "d_acc": d_acc}]})


def _set(connection: sa.Connection, table: sa.TableClause, row: int, **values: object) -> None:
    connection.execute(sa.update(table).where(table.c.id == row).values(values))


def downgrade() -> None:
    """Earlier versions read this too, but for one evening's; what was there is not known any more."""
