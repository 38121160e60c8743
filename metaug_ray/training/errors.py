"""What a user did, or a cluster lacks, in one sentence."""


class TrainingError(Exception):
    """A run that cannot start, go on or be resumed as it was asked for."""
