"""Random faults at random instants, from a seed that is printed; the records stay the same."""
