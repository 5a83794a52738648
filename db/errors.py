"""What can go wrong between the program and its database."""


class DatabaseError(Exception):
    """Base of all errors of this package."""


class DatabaseUnreachable(DatabaseError):
    """The database cannot be opened or does not answer."""


class SchemaMismatch(DatabaseError):
    """The schema in the database is not the one this version of fsq works with."""


class LeaseLost(DatabaseError):
    """The job was handed to another worker, cancelled or finished: this result does not count."""
