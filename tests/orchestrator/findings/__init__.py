"""Records, and how far what they say can be believed."""
