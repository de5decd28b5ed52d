"""Stage 3: learn a concept's token by textual inversion."""
