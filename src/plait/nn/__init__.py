"""Plain modules: attention, norms, blocks, towers, connectors, quantisers. They know nothing of systems, data or training."""
