"""Builds the CPU image with buildah, and uses it as a cluster would: `python -m tests.image --help`."""
