"""What was found, and how far it can be believed: caveats, doubts, statistics over seeds, records, summaries."""
