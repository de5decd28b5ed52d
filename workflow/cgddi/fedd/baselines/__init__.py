"""U-Nets and classifiers on the photos themselves, which the study compares FEDD with."""
