"""Data sets as users have them on disk, each an iterable of records; `kinds` opens them by name."""
