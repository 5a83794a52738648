"""One test for each fault of docs/reliability.md: injected into real processes, it changes no record."""
