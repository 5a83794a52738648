"""Where things are kept: from the environment, with defaults that work on a fresh machine."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """FSQ_HOME and FSQ_DATABASE_URL."""

    model_config = SettingsConfigDict(env_prefix="FSQ_")

    home: Path = Field(default_factory=lambda: user_data_path("fsq"))
    database_url: str = ""

    @property
    def database(self) -> str:
        """The database's URL: what was set, or an SQLite file in the home folder."""
        return self.database_url or f"sqlite:///{self.home.absolute() / 'fsq.db'}"

    @property
    def results(self) -> Path:
        """Where `fsq run` leaves records and summaries."""
        return self.home / "results"

    @property
    def cache(self) -> Path:
        """Where built examples are kept."""
        return self.home / "cache"
