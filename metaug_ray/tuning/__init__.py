"""Search spaces and sweeps."""
