"""Audit: leakage gate, tone of the skin, quality and memorisation of the images a split may train on."""
