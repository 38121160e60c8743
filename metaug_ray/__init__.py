"""MetAug: contrastive learning with meta feature augmentation, as a training service on Ray."""

import os

# Under `uv run`, Ray would have each worker make an environment of its own first: that takes minutes, and fails where
# uv lies in an ignored folder. Ray reads it when it is imported, so it is set before anything here imports Ray.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
