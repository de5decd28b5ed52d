"""Tables and pictures of the study, from the files its runs left."""
