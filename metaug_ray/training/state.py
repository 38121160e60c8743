"""Everything that a run is: built from settings, saved in a checkpoint, loaded from one."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from metaug_ray.config.method import MethodSettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method import distributed
from metaug_ray.method.algorithm import MetaStep, MetAug
from metaug_ray.method.batch_norm import synchronize_batch_norm
from metaug_ray.method.compiled_tangents import CompiledTangents
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.linearization_check import check_linearization
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets import BatchTargets, MemoryBank, NeighbourTargets, Targets
from metaug_ray.method.targets.support_set import SupportSet
from metaug_ray.runtime.device import autocast_dtype
from metaug_ray.runtime.networks import build_networks
from metaug_ray.training.contrasts import make_contrast
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.optimizers import make_optimizer
from metaug_ray.view_names import parse_views


@dataclass
class TrainingState:
    """A run between two steps. Nothing else moves: every draw (order, augmentation, negatives) is a function of seed
    and step."""

    metaug: MetAug
    step: int = 0
    """Steps made, skipped ones among them."""
    skipped: int = 0
    """Steps skipped because a loss or gradient was not finite."""
    skipped_in_row: int = 0
    seconds: float = 0.0
    """Time spent in training, over all restarts."""
    base_rates: dict[str, float] = field(default_factory=dict)
    """Learning rates at the full height of the schedule, by optimiser."""
    images_per_rank: int = 0
    """Of each step."""

    @property
    def optimizers(self) -> dict[str, tuple[nn.Module, Optimizer]]:
        """Each optimiser, with the module that holds its parameters."""
        metaug = self.metaug
        encoder = metaug.model.eager_encoder
        named: dict[str, tuple[nn.Module | None, Optimizer | None]] = {
            "encoder": (encoder.encoders, metaug.encoder_optimizer),
            "head": (encoder.heads, metaug.head_optimizer),
            "generator": (metaug.model.generators, metaug.generator_optimizer),
        }
        return {name: (module, opt) for name, (module, opt) in named.items() if module is not None and opt is not None}

    def set_learning_rates(self, factor: float) -> None:
        """Give each optimiser `factor` times its base rate."""
        for name, (_, optimizer) in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * self.base_rates[name]

    def networks(self) -> dict[str, Any]:
        """Weights and statistics of encoders, heads and generators, and the rows of bank or support set: what a warm
        start takes."""
        model, targets = self.metaug.model, self.metaug.targets
        networks = {"encoder": model.eager_encoder.state_dict()}
        if targets.kept_as is not None:
            networks[targets.kept_as] = targets.state_dict()
        if model.generators is not None:
            networks["generators"] = model.generators.state_dict()
        return networks

    def state_dict(self) -> dict[str, Any]:
        """For `torch.distributed.checkpoint`: tensors as they are, the bank's rows as a sharded `DTensor`.

        A collective call: it gives all ranks the first rank's batch-norm statistics, which steps leave different.
        """
        model = self.metaug.model
        for module in (model.eager_encoder, model.generators):
            if module is not None:
                distributed.broadcast_buffers(module, model.group)
        state = self.networks()
        state["objective"] = model.objective.state_dict()
        state["optimizers"] = {
            name: get_optimizer_state_dict(module, optimizer) for name, (module, optimizer) in self.optimizers.items()
        }
        if self.metaug.lookahead is not None:
            state["lookahead"] = self.metaug.lookahead.state_dict(self.images_per_rank)
        state["progress"] = {name: getattr(self, name) for name in ("step", "skipped", "skipped_in_row", "seconds")}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state in the form of :meth:`state_dict`, loaded by `torch.distributed.checkpoint`."""
        model = self.metaug.model
        model.eager_encoder.load_state_dict(state["encoder"])
        if model.generators is not None:
            model.generators.load_state_dict(state["generators"])
        targets = self.metaug.targets
        if targets.kept_as is not None:
            targets.load_state_dict(state[targets.kept_as])
        model.objective.load_state_dict(state["objective"])
        for name, (module, optimizer) in self.optimizers.items():
            set_optimizer_state_dict(module, optimizer, state["optimizers"][name])
        if self.metaug.lookahead is not None:
            self.metaug.lookahead.load_state_dict(state["lookahead"])
        for name, value in state["progress"].items():
            setattr(self, name, value)


def build_state(
    settings: PretrainSettings, samples: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> TrainingState:
    """A run before its first step, the same on every rank of the group.

    Args:
        settings: of the run.
        samples: N, images in the data set.
        device: of this rank.
        group: ranks that train together; None for the default group, or for this process alone where there is none.

    Raises:
        TrainingError: no tangents can be made of what these encoders keep of their forward pass.
    """
    chosen, training = settings.model, settings.training
    networks, generators = build_networks(settings)
    for module in (networks, generators):
        if module is not None:
            if training.sync_batch_norm:
                synchronize_batch_norm(module, group)
            module.to(device)
    if settings.compute.channels_last:
        networks = networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder_optimizer = make_optimizer([networks.encoders], training.encoder)
    head_optimizer = make_optimizer([networks.heads], training.head)
    generator_optimizer = None if generators is None else make_optimizer([generators], training.generator)
    encoder = _wrapped(networks, device, group, compiled=settings.compute.compile)
    objective = _objective(settings.method, len(chosen.views), group).to(device)
    precision = autocast_dtype(training.precision)
    metaug = MetAug(
        Model(encoder, generators, objective, precision, group, _compiled_tangents(settings, networks, precision)),
        _targets(settings, samples, device, group),
        encoder_optimizer,
        generator_optimizer,
        MetaStep(**settings.method.meta.model_dump()),
        head_optimizer=head_optimizer,
        clip_norm=training.clip_norm,
        accumulation=training.accumulation,
    )
    if settings.method.meta.keep_activations and generators is not None:
        _check_linearization(settings, networks, device)
    rates = {name: getattr(training, name).learning_rate for name in ("encoder", "head", "generator")}
    images = training.batch_size // distributed.world_size(group)
    return TrainingState(metaug, base_rates=rates, images_per_rank=images)


def _check_linearization(settings: PretrainSettings, networks: MultiViewEncoder, device: torch.device) -> None:
    size, random = settings.data.image_size, torch.Generator().manual_seed(0)
    channels = [view.channels for view in parse_views(settings.model.views)]
    images = [torch.randn(8, count, size, size, generator=random).to(device) for count in channels]
    try:
        check_linearization(networks, images, parts=settings.method.meta.share < 1)
    except NotImplementedError as error:
        raise TrainingError(
            f"method.meta.keep_activations: encoder {settings.model.encoder!r} does what tangents cannot be made of "
            f"from kept activations ({error}); use --no-method.meta.keep-activations"
        ) from error


def _objective(settings: MethodSettings, views: int, group: dist.ProcessGroup | None) -> Objective:
    contrast = make_contrast(settings, views * (views - 1), group)
    return Objective(
        contrast,
        delta=settings.delta,
        alpha=settings.alpha,
        margin=settings.margin,
        margin_scope=settings.margin_scope,
        regularize_encoders=settings.regularize_encoders,
        group=group,
    )


def _targets(
    settings: PretrainSettings, samples: int, device: torch.device, group: dist.ProcessGroup | None
) -> Targets:
    model, bank, support = settings.model, settings.bank, settings.support
    match settings.method.targets:
        case "bank":
            return MemoryBank(
                samples,
                model.encoder_numbers,
                model.feature_size,
                negatives=bank.negatives,
                sampling=bank.sampling,
                momentum=bank.momentum,
                seed=settings.seed,
                dtype=getattr(torch, bank.precision),
                device=device,
                group=group,
            )
        case "batch":
            return BatchTargets(len(model.views), model.feature_size, group=group)
        case "neighbours":
            dtype = getattr(torch, support.precision)
            rows = SupportSet(
                support.size, len(model.encoders), model.feature_size, seed=settings.seed, dtype=dtype, device=device
            )
            return NeighbourTargets(model.encoder_numbers, rows, model.feature_size, group=group)


def _compiled_tangents(
    settings: PretrainSettings, networks: MultiViewEncoder, precision: torch.dtype | None
) -> CompiledTangents | None:
    # Synchronised batch norm calls other workers in the midst of the pass, which no graph can hold.
    wanted = settings.compute.compile and settings.method.generators and not settings.training.sync_batch_norm
    return CompiledTangents(networks, precision) if wanted else None


def _wrapped(
    networks: MultiViewEncoder, device: torch.device, group: dist.ProcessGroup | None, *, compiled: bool
) -> nn.Module:
    encoder: nn.Module = torch.compile(networks) if compiled else networks  # type: ignore[assignment]
    if distributed.world_size(group) == 1:
        return encoder
    return DistributedDataParallel(
        encoder,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=group,
        gradient_as_bucket_view=True,
        # Nobody reads the other ranks' statistics of batch norm: before an evaluation and a checkpoint they are sent.
        broadcast_buffers=False,
    )
