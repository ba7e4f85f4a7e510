"""Training a model: the step, its batches, the loop, several processes."""
