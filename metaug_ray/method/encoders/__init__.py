"""Encoders f: their protocol, one file for each family, their table, and the module that runs one per view."""

from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders.build import build_encoder
from metaug_ray.method.encoders.encoder import Encoder, EncoderDict
from metaug_ray.method.encoders.multi_view import MultiViewEncoder, MultiViewOutput

__all__ = [
    "Encoder",
    "EncoderDict",
    "EncoderName",
    "MultiViewEncoder",
    "MultiViewOutput",
    "build_encoder",
]
