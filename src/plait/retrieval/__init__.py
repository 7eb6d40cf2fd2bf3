"""Documents that are found by what they show and say, and put in front of others."""
