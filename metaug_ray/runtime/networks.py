"""Networks from settings."""

import torch

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators


def build_networks(settings: PretrainSettings) -> tuple[MultiViewEncoder, Generators | None]:
    """Encoders with heads, and generators, before training: drawn from the seed, on the CPU."""
    chosen, method = settings.model, settings.method
    of_views = chosen.encoder_numbers if method.generator_per == "encoder" else tuple(range(len(chosen.views)))
    prediction = chosen.prediction_hidden_size if method.targets == "neighbours" else None
    # What is drawn here must not depend on, nor disturb, what the process drew before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        networks = MultiViewEncoder(
            chosen.views,
            chosen.encoder,
            width=chosen.width,
            small_images=chosen.small_images,
            feature_size=chosen.feature_size,
            head=chosen.head.model_dump() | {"prediction_hidden_size": prediction},
        )
        generators = (
            Generators(of_views, chosen.feature_size, method.generator_hidden_size) if method.generators else None
        )
    return networks, generators
