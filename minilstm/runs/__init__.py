"""A run: the model and data that settings describe, its folder, its checkpoints."""
