"""Plain modules: attention, norms, blocks, towers, quantisers. They know nothing of systems, data or training."""
