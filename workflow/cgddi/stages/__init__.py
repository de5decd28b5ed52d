"""One folder per stage: rule, config section and command have the same name."""
