"""What is shown of rounds before, while and after they run."""
