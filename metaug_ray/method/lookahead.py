"""What the `lookahead` schedule keeps of a step, as the next one's gradient is what its meta gradient needs."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from metaug_ray.method import distributed
from metaug_ray.method.linearization import Linearization
from metaug_ray.method.meta_gradient import Rates, StepTaken, trained
from metaug_ray.method.model import Model
from metaug_ray.method.targets.targets import Keys, Targets


class _Kept(NamedTuple):
    """A step without its images."""

    keys: Keys | None
    """None where it comes from a checkpoint."""
    features: Tensor
    """e, [V, B, D]."""
    rows: Tensor | None
    """What the keys are found again from (:meth:`~metaug_ray.method.targets.targets.Targets.recall`)."""
    rates: list[float]
    """l of each parameter of the encoder that is trained, but for `shrink`."""
    shrink: Tensor | None
    """A factor of all rates, a scalar that only the device knows; None where there is none."""

    def scaled(self, rate: float) -> Tensor:
        """A rate with that factor, a float64 scalar on the device, which nobody waits for."""
        made = torch.full((), rate, dtype=torch.float64, device=self.features.device)
        return made if self.shrink is None else made * self.shrink


class Lookahead:
    """The last step, from when it is made until the next one's meta gradient. It holds one copy of the encoder's
    parameters, the images of one minibatch and what they were compared with, and its linearization if there is one.

    A step is kept as parameters, features and rows in a checkpoint, for any number of ranks; its images are to be read
    again (:meth:`recall`).

    Args:
        model: the networks.
        targets: what anchors are compared with.
        optimizers: of the encoder's parameters. l is the learning rate of SGD, by group.
        virtual_learning_rate: l of the virtual step (Eq. 3) for any other optimiser.
    """

    def __init__(
        self, model: Model, targets: Targets, optimizers: Iterable[Optimizer], virtual_learning_rate: float
    ) -> None:
        self._model, self._targets, self._optimizers = model, targets, list(optimizers)
        self._virtual_learning_rate = virtual_learning_rate
        self._parameters = trained(model.eager_encoder)
        self._theta = {name: torch.empty_like(parameter) for name, parameter in self._parameters.items()}
        self._kept: _Kept | None = None
        self._images: list[Tensor] | None = None
        self._linearization: Linearization | None = None

    @property
    def keeps(self) -> bool:
        """Whether there is a step."""
        return self._kept is not None

    @property
    def lacks_images(self) -> bool:
        """Whether there is one that came from a checkpoint, and waits for :meth:`recall`."""
        return self.keeps and self._images is None

    def keep(
        self,
        images: Iterable[Tensor],
        keys: Keys,
        features: Tensor,
        shrink: Tensor | None,
        linearization: Linearization | None = None,
    ) -> None:
        """Keep a step, just before the encoders move.

        Args:
            images: one tensor [B, C_v, H, W] per view.
            keys: what their anchors were compared with.
            features: e, [V, B, D].
            shrink: factor that clipping scales the gradient with; None without clipping.
            linearization: of its forward pass, if tangents are made of that.
        """
        torch._foreach_copy_(
            list(self._theta.values()), [parameter.detach() for parameter in self._parameters.values()]
        )
        self._kept = _Kept(keys, features, keys.rows, self._rates(), shrink)
        self._images, self._linearization = list(images), linearization

    def take(self) -> tuple[StepTaken, Rates] | None:
        """The step that was kept, which is kept no longer, and its rates; None if there was none.

        Raises:
            RuntimeError: its images were not recalled.
        """
        kept, images, linearization = self._kept, self._images, self._linearization
        self._kept = self._images = self._linearization = None
        if kept is None:
            return None
        if images is None or kept.keys is None:
            raise RuntimeError("the step that a checkpoint kept lacks its images: recall them first")
        step = StepTaken(images, kept.keys, kept.features, self._theta, linearization)
        greatest = max(kept.rates)
        others = {
            name: rate / greatest for name, rate in zip(self._parameters, kept.rates, strict=True) if rate != greatest
        }
        return step, Rates(kept.scaled(greatest), others)

    def recall(self, images: Iterable[Tensor], indices: Tensor, step: int) -> None:
        """Complete a step that came from a checkpoint. A collective call.

        Args:
            images: its images again, of this rank's part.
            indices: their data set indices, int64 [B].
            step: its number.
        """
        if self._kept is not None:
            keys = self._targets.recall(indices, step, self._kept.rows)
            self._kept, self._images = self._kept._replace(keys=keys), list(images)

    def state_dict(self, batch: int) -> dict[str, Any]:
        """For `torch.distributed.checkpoint`; of the same shapes whether there is a step or not.

        Args:
            batch: B, images of each rank.
        """
        kept = self._kept or self._nothing(batch)
        # Where there is none, what the last one left behind must not tell two runs apart.
        theta = self._theta if self.keeps else {name: torch.zeros_like(copy) for name, copy in self._theta.items()}
        rates = torch.tensor(kept.rates, dtype=torch.float64, device=kept.features.device) * kept.scaled(1.0)
        state: dict[str, Any] = {"keeps": torch.tensor(self.keeps), "theta": dict(theta), "rates": rates}
        state["features"] = distributed.sharded(kept.features, 1, self._model.group)
        if kept.rows is not None:
            state["rows"] = distributed.sharded(kept.rows, 1, self._model.group)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._kept = self._images = self._linearization = None
        if not state["keeps"]:
            return
        torch._foreach_copy_(list(self._theta.values()), [state["theta"][name] for name in self._theta])
        features, rows = (distributed.local_part(state.get(name)) for name in ("features", "rows"))
        assert features is not None
        self._kept = _Kept(None, features, rows, state["rates"].tolist(), None)

    def _nothing(self, batch: int) -> _Kept:
        like = next(iter(self._theta.values()))
        features = like.new_zeros(self._targets.views, batch, self._targets.feature_size)
        return _Kept(None, features, self._targets.empty_rows(batch), [0.0] * len(self._theta), None)

    def _rates(self) -> list[float]:
        """The derivative of each parameter's update by its gradient, but for the sign."""
        rates: dict[Tensor, float] = {}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                rate = self._virtual_learning_rate
                if isinstance(optimizer, SGD):
                    rate = group["lr"] * (1 + group["momentum"] * group["nesterov"])
                rates |= dict.fromkeys(group["params"], rate)
        return [rates[parameter] for parameter in self._parameters.values()]
