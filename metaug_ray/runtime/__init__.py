"""What every job on a cluster needs: joining Ray, placement, messages, run folders and checkpoints, the log."""
