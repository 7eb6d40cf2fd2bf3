"""Data: shards, importers of foreign formats, and ways to look at them."""
