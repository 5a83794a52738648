"""Judges records: what of them can be believed, and which records say so.

Pure functions from records (`orchestrator.history.entries`) to findings, one theme a module; `judging` runs all of
them, `reporting` makes text, Markdown and JSON of the findings. Nothing here reads files or databases. SciPy, which
`regression` needs, is imported when it is used.
"""
