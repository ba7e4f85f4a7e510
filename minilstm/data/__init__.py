"""Readers and generators of data."""
