"""What a person asks of a run: status, cost, why, repair."""
