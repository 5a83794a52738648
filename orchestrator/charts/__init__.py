"""Draws: the charts of a round, each defined once for the web page, PNG, SVG and HTML.

`data` says what is shown; `deltas`, `curves`, `funnel` and, for reports, `forest`, `stages` and `spending` make
Altair charts of it, `composed` puts several into one, `rendering` makes text and files of them; `of_round` draws a
whole round from its records, and `plotting` one that a client tells of. All else is pure, but for `rendering.write`.
Altair and vl-convert are slow to import: `data`, `rendering` and `of_round` do so only when they draw.
"""
