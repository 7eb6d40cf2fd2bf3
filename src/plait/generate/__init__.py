"""Generation: the engine, sampling, and the model that users hold."""
