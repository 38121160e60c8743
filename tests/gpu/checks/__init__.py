"""A file for each check. A check is a function that takes a :class:`~tests.gpu.setting.Setting` and yields rows."""
