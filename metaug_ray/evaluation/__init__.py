"""Frozen encoders judged (`evaluate`), compared (`compare`) and published (`register`)."""
