"""Records of the past: the predecessor's files of every generation, and files that fsq exported.

`lines` reads files bounded in memory, `entries` turns an object into a run, a decision or a row of the ledger,
`reading` puts both together, `importing` stores what they find, `sources` gathers what is to be judged. Imported
records are history and never answers: no planner, queue or cache of results reads them.
"""
