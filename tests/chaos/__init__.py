"""Runs that lose workers, drivers, nodes and heads at random, against the same run that lost nothing."""
