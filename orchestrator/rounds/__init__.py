"""What is asked for: round files read and checked, their variants, and rounds as the database has them."""
