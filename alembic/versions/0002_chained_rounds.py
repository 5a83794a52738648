"""Chained rounds: which round one waits for, and why it does not start"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("rounds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("after_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.Text(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_rounds_after_id_rounds"), "rounds", ["after_id"], ["id"])
        batch_op.create_index(batch_op.f("ix_rounds_after_id"), ["after_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("rounds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rounds_after_id"))
        batch_op.drop_constraint(batch_op.f("fk_rounds_after_id_rounds"), type_="foreignkey")
        batch_op.drop_column("reason")
        batch_op.drop_column("after_id")
