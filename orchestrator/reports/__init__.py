"""Reports: what many rounds say together, for people, for a log and for papers.

`gathering` asks a client for rounds; `effects` pools what they say of each task, stage and variant; `tables`, `page`
and `drawn` show that as text, Markdown, CSV, JSON, HTML and charts; `round_log` keeps an entry for every round;
`manifest` lists every result, and `references` holds documents against it. All is pure but `gathering` and the two
functions that write files.
"""
