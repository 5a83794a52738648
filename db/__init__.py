"""Remembers: SQLAlchemy tables, sessions, migrations and the job queue, on SQLite or PostgreSQL.

Imports none of the other packages: jobs, results and decisions are rows and JSON here. No policy lives here.
"""
