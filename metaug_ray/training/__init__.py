"""One pre-training run on a cluster: worker loop, step, checkpoint, trainer."""
