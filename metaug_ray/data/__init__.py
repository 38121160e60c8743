"""Images to batches: sources, beton writing and verifying, augmentation, loaders, staging to a node's disk."""
