"""Stage 2: lesion mapping. One lesion is transplanted onto every healthy canvas of a cohort; nothing is trained."""
