"""Asks everything that `fsq status` and `fsq export` ask, as fast as it can, until its standard input ends.

Says when it has all answers for the first time, and at the end how often it had; the first question that is not
answered ends it.
"""

from __future__ import annotations

import select
import sys

from db.session import open_current
from orchestrator.client import DatabaseClient
from orchestrator.intake import Intake
from orchestrator.wiring import preparation


def main(url: str, name: str) -> None:
    database = open_current(url)
    client = DatabaseClient(database, Intake(database, preparation()), "reader")
    answered = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        jobs = list(client.jobs(name))
        client.round(name)
        client.workers()
        for job in jobs:
            client.evaluations(job.id)
        for parts in (client.rounds(), client.decisions(name), client.lines(name, "jsonl")):
            list(parts)
        answered += 1
        if answered == 1:
            print("reading", flush=True)
    database.close()
    print(answered)


if __name__ == "__main__":
    main(*sys.argv[1:])
