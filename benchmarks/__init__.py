"""Speed claims as ratios: ours and the reference, measured in one run."""
