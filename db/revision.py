"""Which schema this version works with."""

HEAD = "0008"  # the newest migration in alembic/versions
