"""What the command line shows while something runs."""
