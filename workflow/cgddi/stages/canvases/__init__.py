"""Which healthy images of a cohort are kept (triage, then a person on the review page), pooled into one archive."""
