"""Judging a model: metrics, baselines, activations."""
