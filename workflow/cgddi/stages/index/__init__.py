"""Index: one table of every image a split may train or test on, with its lineage and its place in the archives."""
