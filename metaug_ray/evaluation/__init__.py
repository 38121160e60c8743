"""Frozen encoders judged."""
