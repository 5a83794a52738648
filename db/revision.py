"""Which schema this version works with."""

HEAD = "0007"  # the newest migration in alembic/versions
