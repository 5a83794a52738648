"""Decides and speaks: round files, the planner, prune rules, records, summaries, the command line.

The core is pure: `planner.plan` says what should exist given what has finished, `engine.advance` stores it.
Never imports torch; sees the worker through `worker.job` only, but for the composition root, which is `start`,
`cli`, `commands` and `wiring`.
"""
