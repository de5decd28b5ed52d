"""Stage 1: healthy skin. Lesions and markers are inpainted away; a triage and then a person decide what is kept."""
