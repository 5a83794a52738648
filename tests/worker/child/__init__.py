"""The process that trains: its runs and what they fit into, and the process itself."""
