"""The five systems: each reads like its paper's figure."""
