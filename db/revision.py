"""Which schema this version works with."""

HEAD = "0009"  # the newest migration in alembic/versions
