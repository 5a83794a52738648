"""Reading round files, and rounds that wait for others or take over their variants."""
