"""Tangents from what a forward pass computed already: two convolutions for each of its own, where forward-mode
differentiation, which computes it again, takes three (`jax.linearize`).

A forward pass is recorded: its calls of PyTorch's functions, each with what its derivative needs. These are tensors
that the backward pass keeps too, but for a shorter time. A tangent is then made by the encoder's own code, run with
tangents for values: functions that are linear take them as they are, and each recorded call makes its derivative of
them, at the values that it saw.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, NoReturn

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from metaug_ray.method.batch_norm import Normalized, SynchronizedBatchNorm, synchronized_batch_norm
from metaug_ray.method.buffers import fixed_buffers
from metaug_ray.method.precision import autocast
from metaug_ray.method.tangents import batch_norm_tangent

_Function = Callable[..., Any]
_Derivative = Callable[..., Any]
"""The tangent of what a recorded call makes: takes the :class:`_Replay`, and the call's arguments with tangents for
values."""


_Rule = Callable[..., _Derivative]
"""Records a call: takes the :class:`_Recording`, what the call made, and its arguments."""


class Part(NamedTuple):
    """One of some even parts of each rank's images."""

    number: int
    """Which, from 0 on."""
    of: int
    """How many there are."""

    def rows(self, size: int) -> slice:
        """Which of so many images, a multiple of `of`."""
        length = size // self.of
        return slice(self.number * length, (self.number + 1) * length)


WHOLE: Final = Part(0, 1)


class Linearization:
    """One forward pass of an encoder, and its tangents along any direction.

    It holds on to the activations of a whole minibatch, or to copies of those of a part. Batch norm then still has the
    minibatch's statistics, and the part's tangents of them.

    Example:
        >>> linearization = Linearization(encoder)
        >>> with linearization.recording(images):
        ...     features = encoder(images).features
        >>> features.sum().backward()
        >>> edot = linearization.tangent(theta, direction)

    Args:
        encoder: whose features e are. It may be in DDP, but not compiled, while it is recorded.
        part: of the images, whose tangents are made.
        dtype: of autocast, for the tangents; None for none.
    """

    def __init__(self, encoder: nn.Module, part: Part = WHOLE, dtype: torch.dtype | None = None) -> None:
        self.part = part
        self._encoder, self._dtype = encoder, dtype
        self._images: list[Tensor] = []
        self._tape: list[_Recorded] = []

    @contextmanager
    def recording(self, images: Sequence[Tensor]) -> Iterator[None]:
        """A context in which the encoder is called once.

        Args:
            images: that it is called with, one tensor [B, C_v, H, W] per view.

        Raises:
            NotImplementedError: from within, if the encoder calls what no tangents can be made of.
        """
        self._images = [view[self.part.rows(len(view))] for view in images]
        trained = [parameter for parameter in self._encoder.parameters() if parameter.requires_grad]
        with _Recording([*images, *_constants(self._encoder)], trained, self._tape, self.part, len(images[0])):
            yield

    def tangent(self, theta: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Tensor:
        """J_theta e . direction of the part's images, [V, B / parts, D], without graph.

        Args:
            theta: what the encoder's trained parameters were when it was recorded, by name.
            direction: tangents of these.

        Raises:
            RuntimeError: the encoder takes another way than it was recorded on, or what it saw was written to since.
        """
        tangents = {id(theta[name]): tangent for name, tangent in direction.items()}
        replay = _Replay([*self._images, *_constants(self._encoder)], theta.values(), self._tape, tangents)
        eager, precision = torch.compiler.set_stance("force_eager"), autocast(self._images[0].device, self._dtype)
        with torch.no_grad(), fixed_buffers(self._encoder), eager, precision, replay:
            edot: Tensor = functional_call(self._encoder, dict(theta), (self._images,)).features
        replay.check_ended()
        return edot


def _constants(module: nn.Module) -> list[Tensor]:
    return [*module.buffers(), *(parameter for parameter in module.parameters() if not parameter.requires_grad)]


class _Recorded(NamedTuple):
    function: _Function
    derivative: _Derivative


class _Kept(NamedTuple):
    """A tensor, as it was at some time."""

    tensor: Tensor
    version: int

    def get(self) -> Tensor:
        """Raises:
        RuntimeError: somebody has written to it since."""
        if self.tensor._version != self.version:
            raise RuntimeError(f"a tensor {list(self.tensor.shape)} that tangents need was written to")
        return self.tensor


class _Mode(TorchFunctionMode):
    """What recording and replaying have in common: telling apart constants, parameters and what moves with these."""

    def __init__(self, constants: Iterable[Tensor], parameters: Iterable[Tensor], tape: list[_Recorded]) -> None:
        super().__init__()
        # Tensors are held, so that no other one takes their identity.
        self._constants = {id(tensor): tensor for tensor in constants}
        self._parameters = {id(tensor): tensor for tensor in parameters}
        self.tape = tape

    def moves(self, tensor: Tensor) -> bool:
        """Whether it is neither a constant nor a parameter."""
        return id(tensor) not in self._constants and id(tensor) not in self._parameters

    def constant(self, made: Any) -> Any:
        """The same, taken note of as no function of the parameters."""
        self._constants |= {id(tensor): tensor for tensor in _tensors(made)}
        return made

    def __torch_function__(
        self,
        func: _Function,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        tensors = _tensors(*args, *named.values())
        if all(id(tensor) in self._constants for tensor in tensors):
            return self.constant(func(*args, **named))
        terms = (*args, *named.values()) if func in _SUMS else tensors
        if func in _LINEAR and all(isinstance(term, Tensor) and self.moves(term) for term in terms):
            return func(*args, **named)
        return self.call(func, args, named, tensors)

    def call(self, function: _Function, args: tuple[Any, ...], named: dict[str, Any], tensors: list[Tensor]) -> Any:
        """A call that may not be linear in what moves."""
        raise NotImplementedError


class _Recording(_Mode):
    """Fills the tape."""

    def __init__(
        self,
        constants: Iterable[Tensor],
        parameters: Iterable[Tensor],
        tape: list[_Recorded],
        part: Part,
        size: int,
    ) -> None:
        super().__init__(constants, parameters, tape)
        self._part, self._size = part, size
        self._copies: dict[tuple[int, int], tuple[Tensor, _Kept]] = {}

    def keep(self, tensor: Tensor) -> _Kept:
        """Hold on to the part's rows of a tensor [B, ...]."""
        if self._part.of == 1:
            return _Kept(tensor.detach(), tensor._version)
        if len(tensor) != self._size:
            raise NotImplementedError(
                f"tangents of a part of {self._size} images: a tensor {list(tensor.shape)} is none of these images"
            )
        key = id(tensor), tensor._version
        if key not in self._copies:
            copy = tensor.detach()[self._part.rows(self._size)].clone()
            self._copies[key] = tensor, _Kept(copy, copy._version)
        return self._copies[key][1]

    def call(self, function: _Function, args: tuple[Any, ...], named: dict[str, Any], tensors: list[Tensor]) -> Any:
        rule = _RULES.get(function)
        if rule is not None and any(map(self.moves, tensors[1:])):
            rule = None  # rules are for weights that are parameters, not made of them
        before = None if rule else [tensor._version for tensor in tensors]
        made = function(*args, **named)
        if not _tensors(made):
            return made
        if before is not None and before != [tensor._version for tensor in tensors]:
            raise NotImplementedError(f"tangents of {function}: it writes to what it takes")
        self.tape.append(_Recorded(function, (rule or _any_function(function))(self, made, *args, **named)))
        return made


class _Replay(_Mode):
    """Plays the tape, with tangents for values."""

    def __init__(
        self,
        constants: Iterable[Tensor],
        parameters: Iterable[Tensor],
        tape: list[_Recorded],
        tangents: dict[int, Tensor],
    ) -> None:
        super().__init__(constants, parameters, tape)
        self._tangents = tangents
        self._functions = {each.function for each in tape}
        self._rest = iter(tape)

    def of(self, tensor: Tensor | None) -> Tensor | None:
        """The tangent of a parameter, or the one that stands for a value; None where there is none."""
        if tensor is None or id(tensor) in self._constants:
            return None
        return self._tangents.get(id(tensor)) if id(tensor) in self._parameters else tensor

    def call(self, function: _Function, args: tuple[Any, ...], named: dict[str, Any], tensors: list[Tensor]) -> Any:
        if function not in self._functions:  # what makes no tensors was not recorded
            made = function(*args, **named)
            if _tensors(made):
                self._refuse(f"{function} was called and not recorded")
            return made
        recorded = next(self._rest, None)
        if recorded is None or recorded.function != function:
            self._refuse(f"{function} was called where {recorded and recorded.function} was recorded")
        return recorded.derivative(self, *args, **named)

    def check_ended(self) -> None:
        """Raises:
        RuntimeError: fewer calls were made than recorded."""
        left = next(self._rest, None)
        if left is not None:
            self._refuse(f"{left.function} was recorded and not called")

    @staticmethod
    def _refuse(why: str) -> NoReturn:
        raise RuntimeError(f"an encoder must take the same way each time, and this one did not: {why}")


def _product(function: _Function) -> _Rule:
    """Convolutions and linear layers: products of inputs with a weight, and a bias."""

    def record(recording: _Recording, made: Tensor, inputs: Tensor, *_: Any, **__: Any) -> _Derivative:
        kept = recording.keep(inputs)

        def derivative(
            replay: _Replay, inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any, **named: Any
        ) -> Tensor:
            of_inputs, of_weight, of_bias = map(replay.of, (inputs, weight, bias))
            parts = []
            if of_inputs is not None:
                parts.append(function(of_inputs, weight, None, *how, **named))
            if of_weight is not None or of_bias is not None:
                of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
                parts.append(function(kept.get(), of_weight, of_bias, *how, **named))
            tangent: Tensor = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
            return tangent

        return derivative

    return record


def _batch_norm(
    recording: _Recording,
    made: Tensor,
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> _Derivative:
    kept = recording.keep(inputs)
    if training:
        mean, reciprocal = _statistics(made, inputs, eps)
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, reciprocal = running_mean.clone(), (running_var + eps).rsqrt()

    def derivative(
        replay: _Replay,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        tangents = replay.of(inputs), replay.of(weight), replay.of(bias)
        tangent = batch_norm_tangent(kept.get(), weight, tangents, mean, reciprocal, training=training)
        assert tangent is not None
        return tangent

    return derivative


def _statistics(made: Tensor, inputs: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal of the deviation of each channel: those that the forward pass made, if it tells them."""
    mean, reciprocal = (getattr(made.grad_fn, f"_saved_result{number}", None) for number in (1, 2))
    if isinstance(mean, Tensor) and isinstance(reciprocal, Tensor):
        return mean.detach(), reciprocal.detach()
    precise = inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, [d for d in range(inputs.ndim) if d != 1], correction=0)
    return mean, (variance + eps).rsqrt()


def _synchronized_batch_norm(
    recording: _Recording,
    made: Normalized,
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: SynchronizedBatchNorm,
) -> _Derivative:
    kept, mean, reciprocal = recording.keep(inputs), made.mean.detach(), made.reciprocal.detach()

    def derivative(
        replay: _Replay,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: SynchronizedBatchNorm,
    ) -> Normalized:
        tangents = replay.of(inputs), replay.of(weight), replay.of(bias)
        return Normalized(norm.tangent(kept.get(), weight, tangents, mean, reciprocal), mean, reciprocal)

    return derivative


def _relu(recording: _Recording, made: Tensor, *_: Any, **__: Any) -> _Derivative:
    kept = recording.keep(made)

    def derivative(replay: _Replay, inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        tangent: Tensor = torch.ops.aten.threshold_backward(inputs, kept.get(), 0)
        return tangent

    return derivative


def _any_function(function: _Function) -> _Rule:
    """Computed again, with dual numbers."""

    def record(recording: _Recording, made: Any, *args: Any, **named: Any) -> _Derivative:
        leaves = pytree.tree_leaves((args, named))
        kept = {
            place: recording.keep(leaf) for place, leaf in enumerate(leaves) if _is_real(leaf) and recording.moves(leaf)
        }

        def derivative(replay: _Replay, *args: Any, **named: Any) -> Any:
            leaves, structure = pytree.tree_flatten((args, named))
            with forward_ad.dual_level():
                for place, leaf in enumerate(leaves):
                    tangent = replay.of(leaf) if _is_real(leaf) else None
                    if tangent is not None:
                        value = kept[place].get() if place in kept else leaf
                        leaves[place] = forward_ad.make_dual(value, tangent.to(value.dtype))
                args, named = pytree.tree_unflatten(leaves, structure)
                return pytree.tree_map(lambda each: _tangent(replay, each), function(*args, **named))

        return derivative

    return record


def _tangent(replay: _Replay, made: Any) -> Any:
    if not _is_real(made):
        return made
    value, tangent = forward_ad.unpack_dual(made)
    return replay.constant(value) if tangent is None else tangent


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _tensors(*values: Any) -> list[Tensor]:
    """Those of numbers that move, in tuples, lists and mappings too."""
    found = []  # each call of a step comes by here: pytree's leaves take three times as long
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point():
                found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(*value)
        elif isinstance(value, Mapping):
            found += _tensors(*value.values())
    return found


_RULES: Final[dict[_Function, _Rule]] = {
    torch.conv2d: _product(torch.conv2d),
    F.linear: _product(F.linear),
    F.batch_norm: _batch_norm,
    synchronized_batch_norm: _synchronized_batch_norm,
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
}
"""Of all other functions the derivative is made of dual numbers."""

_SUMS: Final = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__}
"""Linear if all arguments are tensors that move."""

_LINEAR: Final = _SUMS | {
    *(torch.stack, torch.cat, torch.flatten, Tensor.flatten, torch.reshape, Tensor.reshape, Tensor.view),
    *(torch.chunk, Tensor.chunk, torch.split, Tensor.split, Tensor.unbind, torch.unbind, Tensor.__getitem__),
    *(Tensor.float, Tensor.double, Tensor.bfloat16, Tensor.to, Tensor.contiguous),
    *(Tensor.mean, torch.mean, Tensor.sum, torch.sum, F.adaptive_avg_pool2d, F.avg_pool2d),
}
