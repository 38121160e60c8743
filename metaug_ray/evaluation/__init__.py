"""Frozen encoders judged: feature extraction, kNN, linear probe, plots."""
