"""Data sets as users have them on disk, each an iterable of records; `table` opens them by name."""
