"""What was asked for last is kept."""

from __future__ import annotations

from orchestrator.lru import LruCache


def test_lru_cache__forgets_what_was_not_asked_for() -> None:
    made: list[str] = []
    kept: LruCache[str] = LruCache(2)

    def ask(key: str) -> None:
        kept.get(key, lambda: made.append(key) or key)  # type: ignore[func-returns-value]

    for key in "abacab":
        ask(key)

    assert made == ["a", "b", "c", "b"]
