"""cgDDI: grow a small skin-tone-labelled dermatology set, and measure whether that made classifiers fairer."""

__version__ = "0.2.0"
