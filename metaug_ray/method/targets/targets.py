"""What training expects of whatever anchors are compared with."""

from typing import Any, ClassVar, Protocol

from torch import Tensor

from metaug_ray.method.similarities import Similarities


class Sample(Protocol):
    """What is known of a minibatch's targets before its forward pass."""

    @property
    def divisible(self) -> bool:
        """Whether a part of the minibatch can be compared by itself. Where not, each anchor is compared with features
        of the whole global batch."""

    def keys(self, projections: Tensor) -> "Keys":
        """What its anchors are compared with, given z of this rank's part, [V, B, D]. A collective call."""


class Keys(Sample, Protocol):
    """What the anchors of one minibatch are compared with: the same at theta, at theta' and for the tangents."""

    def similarities(self, anchors: Tensor, features: Tensor) -> Similarities:
        """Similarities of this rank's anchors, differentiable as often as wanted. A collective call.

        Args:
            anchors: what is compared, unit vectors [V, B, D]: features e, or augmented features a(e).
            features: e, unit vectors [V, B, D].
        """

    @property
    def rows(self) -> Tensor | None:
        """What of them no later sample gives, one row for each image of this rank, [*, B, D]; None if there is
        nothing."""

    def part(self, number: int, count: int) -> "Keys":
        """What part `number` of `count` even parts of this rank's anchors is compared with. Of targets that are not
        divisible there is one part only."""


class Targets(Protocol):
    """What anchors are compared with, over a run."""

    views: int
    """V."""
    feature_size: int
    """D."""
    kept_as: ClassVar[str | None]
    """Name in a checkpoint of what :meth:`state_dict` gives; None for those that keep nothing."""

    def ask(self, index: Tensor, step: int, *, stream: str = "regular", global_index: Tensor | None = None) -> Sample:
        """Draw, or ask other ranks for, what a minibatch is compared with. A collective call, which goes on in the
        background: what others send is waited for where keys are made of it.

        Args:
            index: data set indices of this rank's anchors, integers [B], best on the CPU.
            step: number of the training step.
            stream: name of an independent sequence of draws within a step.
            global_index: indices of all ranks' anchors, rank by rank, int64 [W * B] on the CPU; None to gather them
                where they are needed.
        """

    def recall(self, index: Tensor, step: int, rows: Tensor | None) -> Keys:
        """The keys of the last step that :meth:`update` took over, again. A collective call.

        Args:
            index: data set indices of its anchors of this rank, integers [B].
            step: its number.
            rows: those of its keys.
        """

    def empty_rows(self, batch: int) -> Tensor | None:
        """A tensor of the shape and type of the rows of `batch` images."""

    def update(self, keys: Any, projections: Tensor) -> None:
        """Take over what a step made, after the encoders have moved. A collective call.

        Args:
            keys: of the minibatch.
            projections: its z before they moved, unit vectors [V, B, D].
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must have, for `torch.distributed.checkpoint`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
