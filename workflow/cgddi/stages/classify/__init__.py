"""Classification: train a classifier on real images, synthetic images or both, and predict the split's test images."""
