"""Checkpoints: Plait's own directories, and what joins from files outside the package."""
