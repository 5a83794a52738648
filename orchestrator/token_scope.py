"""What a token of the service allows."""

from __future__ import annotations

from enum import StrEnum


class TokenScope(StrEnum):
    """Each includes those before it."""

    READ = "read"  # look at everything
    SUBMIT = "submit"  # submit rounds, cancel and retry one's own
    ADMIN = "admin"  # cancel and retry those of others

    def includes(self, other: TokenScope) -> bool:
        """Whether who may do this may do the other."""
        members = list(TokenScope)
        return members.index(self) >= members.index(other)
