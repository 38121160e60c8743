"""What every encoder f_v promises to the code that trains, evaluates and publishes it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import ItemsView, ValuesView


class Encoder(nn.Module, ABC):
    """The encoder of one view: images [B, C_v, H, W] to representations [B, representation_size].

    A new one is a file with a subclass, and an entry in :data:`metaug_ray.encoder_table.ENCODERS`.

    It must be exportable, as a published encoder is a graph from `torch.export` that takes any number of images of any
    size from `minimum_size` on. The graph is traced from two images of one size, and must not bind to their number or
    size. So take sizes from `x.shape`, as `len(x)` fixes them; branch on a size only to refuse images that are too
    small, as the graph keeps the side that its example took; and where an operator binds to its example's sizes,
    compute it another way under `torch.compiler.is_exporting()`. Known ones are adaptive pooling to more than one cell
    (see `alexnet.py`) and writing into slices of a tensor (see `views.py`). A test exports every encoder of the table.
    """

    representation_size: int
    """H, numbers in a representation."""
    minimum_size: int
    """Least side of an image in pixels, from :data:`metaug_ray.encoder_table.ENCODERS`."""

    @property
    @abstractmethod
    def stages(self) -> dict[str, nn.Module]:
        """Parts whose outputs a probe may read, by name, from the image on: maps [B, C, H', W'], or vectors [B, C]."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Representations of images.

        Raises:
            ValueError: the images are smaller than `minimum_size`.
        """


if TYPE_CHECKING:

    class EncoderDict(nn.ModuleDict):
        """Encoders by view."""

        def __getitem__(self, view: str) -> Encoder: ...
        def items(self) -> ItemsView[str, Encoder]: ...
        def values(self) -> ValuesView[Encoder]: ...

else:
    # At run time the very class, as compilation and export know it.
    EncoderDict = nn.ModuleDict
