"""Nothing is lost: attempts without progress, paused workers, indexes that find jobs at once"""

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("fruitless", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("reached", sa.Integer(), nullable=False, server_default="0"))
        batch_op.drop_index("ix_jobs_claim")
        batch_op.create_index("ix_jobs_claim", ["state", "id"], unique=False)
        batch_op.create_index("ix_jobs_claim_of_round", ["round_id", "state", "id"], unique=False)
        batch_op.create_index("ix_jobs_next", ["state", "not_before"], unique=False)
        batch_op.drop_index("ix_jobs_fingerprint")
        batch_op.create_index("ix_jobs_known", ["fingerprint", "state"], unique=False)
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("paused", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("paused")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_known")
        batch_op.create_index("ix_jobs_fingerprint", ["fingerprint"], unique=False)
        batch_op.drop_index("ix_jobs_next")
        batch_op.drop_index("ix_jobs_claim_of_round")
        batch_op.drop_index("ix_jobs_claim")
        batch_op.create_index("ix_jobs_claim", ["state", "not_before", "id"], unique=False)
        batch_op.drop_column("reached")
        batch_op.drop_column("fruitless")
