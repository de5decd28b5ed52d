"""Stage 5: sample images of a concept in three tones on healthy canvases."""
