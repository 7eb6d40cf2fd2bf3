"""What is minimised: one file per family of losses."""
