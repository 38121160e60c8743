"""The command lines of `jobs/`, one file each: they read settings and call one function of the package."""
