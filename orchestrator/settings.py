"""All settings: from variables FSQ_* of the environment, with defaults that work on a fresh machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.paths import expanded


class Settings(BaseSettings):
    """FSQ_HOME, FSQ_DATABASE_URL and so on: every field with FSQ_ before it; one that is empty is not set."""

    model_config = SettingsConfigDict(env_prefix="FSQ_", env_ignore_empty=True)

    home: Path = Field(default_factory=lambda: user_data_path("fsq"))
    database_url: str = ""

    # of the client
    server: str = ""  # where the commands go, instead of to the database
    token: str | None = None

    # of the server
    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: list[str] = []  # names by which clients may call it, beside the address it listens on
    data_roots: list[Path] = []  # folders in which data and checkpoints of rounds sent over HTTP must lie

    # of the worker (worker.limits has what each is for)
    lease_seconds: float = Field(default=60, ge=2, le=1800)
    max_attempts: PositiveInt = 3
    max_infra_attempts: PositiveInt = 8
    max_failures_in_a_row: PositiveInt = 3
    cool_down_seconds: PositiveFloat = 60
    stall_seconds: PositiveFloat = 600
    grace_seconds: PositiveFloat = 900
    database_patience_seconds: PositiveFloat = 3600
    activation_gib: NonNegativeFloat = 4
    snapshot_gib: NonNegativeFloat = 20
    log_mib: PositiveFloat = 64
    failure_table: Path | None = None  # own patterns of log lines, and what they mean

    log_format: Literal["text", "json"] = "text"

    @field_validator("home")
    @classmethod
    def _expanded(cls, home: Path) -> Path:
        """With ~ as the user's home, which no shell has replaced in a file of settings."""
        try:
            str(home).encode()
        except UnicodeEncodeError:
            raise ValueError("is no UTF-8 text") from None
        return expanded(home)

    @property
    def database(self) -> str:
        """The database's URL: what was set, or an SQLite file in the home folder."""
        if self.database_url:
            return self.database_url
        from sqlalchemy.engine import URL  # slow to import

        return URL.create("sqlite", database=str(self.home.absolute() / "fsq.db")).render_as_string()

    @property
    def knows_the_server_only(self) -> bool:
        """Whether a server is named, and its database is not."""
        return bool(self.server and not self.database_url)

    @property
    def snapshot_bytes(self) -> int:
        """Room for all snapshots together."""
        return int(self.snapshot_gib * 2**30)

    @property
    def roots(self) -> list[Path]:
        """The folders in which data and checkpoints of rounds sent over HTTP must lie."""
        return self.data_roots or [self.home / "data"]

    @property
    def results(self) -> Path:
        """Where `fsq run` leaves records and summaries."""
        return self.home / "results"

    @property
    def cache(self) -> Path:
        """Where built examples are kept."""
        return self.home / "cache"
