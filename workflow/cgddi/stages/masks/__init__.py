"""Stage 0: photos and their five-class masks, brought to working size."""
