"""Stage 4: train a concept's LoRA adapter, DreamBooth style."""
