"""What was found, and how far it can be believed: runs, evidence, caveats, records, summaries."""
