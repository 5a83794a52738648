"""What people and programs are shown of rounds, jobs and workers: shapes, and the reads that fill them."""
