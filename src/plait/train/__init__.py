"""Training: a stage is data, one loop runs it, and a run directory says what happened."""
