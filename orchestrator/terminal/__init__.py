"""What the command line shows: live displays, log lines and tables."""
