"""Does: claims jobs, trains and evaluates them in a warm child process, heartbeats, reports.

May import `tasks`, `model` and `db`, never `orchestrator`: what a result means is decided there. The rest of
the project sees this package through `worker.job` (the shared vocabulary, no torch); only the command line
wires a running worker to the engine.
"""
