"""Failures of the infrastructure counted apart; which snapshot a job goes on from"""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("infra_failures", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("trajectory", sa.Text(), nullable=True))
        batch_op.create_index("ix_jobs_trajectory", ["trajectory"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_trajectory")
        batch_op.drop_column("trajectory")
        batch_op.drop_column("infra_failures")
