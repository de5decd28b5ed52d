"""Published figures beside ours, cell by cell."""
