"""What is read out of an encoder's networks, in one pass over the images."""

import hashlib

import torch
from torch import Tensor, nn

from metaug_ray.evaluation.find_encoder import FoundEncoder
from metaug_ray.method.encoders import Encoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.heads import HeadDict
from metaug_ray.method.views import split_views
from metaug_ray.view_names import first_views

REPRESENTATIONS = "representations"
"""Name of the part that downstream tasks use."""
AUGMENTED = "augmented"
"""Name of the part e ++ a(e) (table 5): what the contrast takes, and what the first view's generator makes of it."""


class Readout(nn.Module):
    """All parts of the networks that an evaluation looks at.

    Args:
        found: whose networks.
        layers: read each stage of the encoders too, its maps averaged over the image.
        augmented: read features with augmented ones beside them too.

    Raises:
        ValueError: `augmented` without generators.

    Shape: uint8 images [B, 3, H, W] to a dictionary of float32 [B, E, H_part] by part, of E encoders.
    """

    def __init__(self, found: FoundEncoder, *, layers: bool = False, augmented: bool = False) -> None:
        super().__init__()
        self.encoder = found.encoder
        self.layers = layers
        self._first_views = first_views(found.description.model.parsed_views)
        self.heads: HeadDict | None = None
        self.generators: Generators | None = None
        if augmented:
            if found.heads is None or found.generators is None:
                raise ValueError(
                    f"augmented_features: the run {found.description.run!r} ({found.description.variant}) has no "
                    "generators; leave it out"
                )
            self.heads, self.generators = found.heads, found.generators
        self.requires_grad_(False).eval()

    @property
    def checksum(self) -> str:
        """SHA-256 over all weights: equal ones read out the same."""
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        views = split_views(images, self.encoder.views)
        for (name, f), view, first in zip(self.encoder.encoders.items(), views, self._first_views, strict=True):
            representations, stages = self._read(f, view)
            for stage, output in stages.items():
                parts.setdefault(stage, []).append(output)
            parts.setdefault(REPRESENTATIONS, []).append(representations)
            if self.heads is not None and self.generators is not None:
                features, _ = self.heads[name].compared(representations)
                augmented = self.generators.of_view(first, features)
                parts.setdefault(AUGMENTED, []).append(torch.cat([features, augmented], 1))
        return {part: torch.stack(each, 1).float() for part, each in parts.items()}

    def _read(self, encoder: Encoder, view: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Representations [B, H], and the averages [B, C] of each stage's outputs."""
        outputs: dict[str, Tensor] = {}

        def keep(stage: str, output: Tensor) -> None:
            outputs[stage] = output.flatten(2).mean(2) if output.ndim == 4 else output.clone()

        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output, stage=stage: keep(stage, output))
            for stage, module in (encoder.stages.items() if self.layers else ())
        ]
        try:
            return encoder(view), outputs
        finally:
            for hook in hooks:
                hook.remove()
