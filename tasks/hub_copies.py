"""What this machine has of hub data sets: the commits that branches mean, and prepared data by commit.

The folders are those of `huggingface_hub` and `datasets`. They are looked up here because `datasets`, out of
reach of the hub, takes whatever commit was prepared last.
"""

from __future__ import annotations

import glob
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.config import HubData
from tasks.files import write_whole

COMMIT = re.compile(r"[0-9a-f]{40}")


def known_commit(hub: HubData) -> str | None:
    """The commit that the branch or tag meant when this machine last asked."""
    try:
        content = _ref_file(hub).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return content if COMMIT.fullmatch(content) else None


def remember_commit(hub: HubData, commit: str) -> None:
    """Keeps what a branch or tag means, where `huggingface_hub` keeps it too."""
    _remember(_ref_file(hub), commit)


def _remember(path: Path, note: str) -> None:
    with suppress(OSError):  # a cache that others share may be read-only: then the hub is asked each time
        write_whole(path, note.encode())


def _ref_file(hub: HubData) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=hub.repo, repo_type="dataset")
    return Path(constants.HF_HUB_CACHE) / folder / "refs" / (hub.revision or "main")


def prepared(hub: HubData, commit: str) -> Any | None:
    """A builder of the data as an earlier download left them; None where there is none of this commit."""
    from datasets import config
    from datasets.packaged_modules.cache.cache import Cache

    name = hub.config or _default_config(hub, commit)
    for info in _folder(hub).glob(f"{glob.escape(name)}/*/{commit}/dataset_info.json"):
        version = info.parts[-3]
        cache_dir = str(config.HF_DATASETS_CACHE)
        dataset = hub.repo.split("/")[-1]
        return Cache(cache_dir, dataset, config_name=name, version=version, hash=commit, repo_id=hub.repo)
    return None


def damages() -> tuple[type[Exception], ...]:
    """What reading a copy raises whose files are missing or cut short."""
    from pyarrow import ArrowException

    return (ArrowException, OSError)


def remember_default_config(hub: HubData, commit: str, name: str) -> None:
    """Keeps which configuration the data set has where none is asked for."""
    _remember(_default_file(hub, commit), name)


def _default_config(hub: HubData, commit: str) -> str:
    try:
        return _default_file(hub, commit).read_text(encoding="utf-8") or "default"
    except (OSError, UnicodeDecodeError):
        return "default"


def _default_file(hub: HubData, commit: str) -> Path:
    return _folder(hub) / f"{commit}.default_config"


def _folder(hub: HubData) -> Path:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, name = hub.repo.split("/")
    return Path(config.HF_DATASETS_CACHE).expanduser() / "___".join([*owner, camelcase_to_snakecase(name)])
