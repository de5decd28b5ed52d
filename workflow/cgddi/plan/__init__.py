"""From config and sheets to jobs: read at every parse, light."""
