"""What all parts stand on: archives, images, colours, seeds, errors. Light."""
