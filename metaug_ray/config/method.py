"""The loss and the generators: what makes MetAug of CMC."""

from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from metaug_ray.choices import MarginKind, MarginScope, MetaSchedule, TargetKind
from metaug_ray.config.base import NotNegative, Positive, Settings
from metaug_ray.config.contrasts import CONTRASTS, Contrast, ContrastName, Contrasts


class MetaSettings(Settings):
    """How the generators are trained (Algorithm 1)."""

    schedule: MetaSchedule = "fused"
    """fused: with the encoders, on the same minibatch; separate: after them, on a minibatch of their own; lookahead:
    the encoders' own step is the virtual one, and the next minibatch's gradient tells what it was worth"""
    virtual_learning_rate: Positive = 1e-3
    """step size of the virtual step (l in Eq. 3); with lookahead and sgd it is the encoders' own"""
    every: int = Field(1, ge=1)
    """train the generators on each n-th step"""
    share: float = Field(1.0, gt=0, le=1)
    """share of each worker's images, other ones each time, that tangents are made of: 1, 0.5, 0.25 or another one over
    a whole number; all of them have their part in the gradient that these are along"""
    keep_activations: bool = False
    """make tangents from the activations of the encoders' forward pass, kept for that long, in place of computing them
    again: less time, for the memory of the share's activations once more"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if abs(self.parts * self.share - 1) > 1e-2:
            raise ValueError(f"share: got {self.share:g}; expected one over a whole number, such as 1, 0.5 or 0.25")
        return self

    @property
    def parts(self) -> int:
        """Of which the share is one."""
        return round(1 / self.share)


_OF_GENERATORS: Final = {
    *("generator_per", "generator_hidden_size", "delta", "alpha", "margin", "margin_scope", "regularize_encoders"),
    "meta",
}
_BASES: Final = {"bank": "", "batch": "SimCLR", "neighbours": "NNCLR"}
_OUCL: Final = {"unified": "", "unified_eq8": " (Eq. 8)", "unified_attenuated": " (Eq. 9)"}


class MethodSettings(Contrasts):
    """The loss and the generators. MetAug is unified + generators; without generators it is "only OUCL"; info_nce +
    generators is "only MAG"; nce or info_nce without them is CMC. With targets batch CMC becomes SimCLR, with targets
    neighbours NNCLR, and MetAug MetAug*."""

    contrast: ContrastName = "unified"
    """unified: OUCL, Eq. 10; unified_eq8, unified_attenuated: its ablations, Eq. 8 and 9; info_nce, nce: CMC;
    debiased_info_nce, hard_info_nce: CMC + Debiased, CMC + Hard"""
    targets: TargetKind = "bank"
    """what each image is compared with: bank: rows of the memory bank (CMC, MetAug); batch: the other view of all
    images of the batch (SimCLR); neighbours: the nearest neighbours of the other view in a support set (NNCLR,
    MetAug*)"""
    generators: bool = True
    """train meta feature augmentation generators (MAG)"""
    generator_per: Literal["encoder", "view"] = "encoder"
    """whose generator each is: views that share an encoder share it too, or each view has its own"""
    generator_hidden_size: int = Field(2048, ge=8, le=65_536)
    """units of the generators' two hidden layers"""
    delta: NotNegative = 1e-5
    """weight of the loss of augmented features (Eq. 11); the paper searches 1e-1 to 1e-8"""
    alpha: NotNegative = 1e-13
    """weight of the margin regulariser in the generators' objective (Eq. 6); the paper searches 1e-3 to 1e-17"""
    margin: MarginKind = "large"
    """kind of the injected margins (appendix A.2)"""
    margin_scope: MarginScope = "minibatch"
    """what their extremes are taken over: the minibatch, as in the paper, or each anchor, as in the authors' code"""
    regularize_encoders: bool = False
    """let encoders minimise the margin regulariser too, as in the authors' code; in the paper generators alone do"""
    meta: MetaSettings = MetaSettings()
    """training of the generators"""

    @property
    def chosen_contrast(self) -> Contrast:
        """Parameters of the contrast that is trained."""
        chosen: Contrast = getattr(self, self.contrast)
        return chosen

    @property
    def idle_parameters(self) -> dict[str, Any]:
        """Parameters of contrasts that are not trained, by dotted name, where somebody set them.

        What the trained contrast has too, at the same value, is left out: 0.1.0 had one for all contrasts.
        """
        found: dict[str, Any] = {}
        trained = self.chosen_contrast.model_dump()
        for name in set(CONTRASTS) - {self.contrast}:
            parameters: Contrast = getattr(self, name)
            given = parameters.model_dump(exclude_defaults=True)
            found |= {f"method.{name}.{key}": value for key, value in given.items() if trained.get(key) != value}
        return dict(sorted(found.items()))

    @property
    def idle_without_generators(self) -> dict[str, Any]:
        """Settings of generators, by dotted name, where somebody set them and there are none."""
        if self.generators:
            return {}
        given = self.model_dump(include=_OF_GENERATORS, exclude_defaults=True)
        meta = {f"method.meta.{name}": value for name, value in given.pop("meta", {}).items()}
        return {f"method.{name}": value for name, value in given.items()} | meta

    @property
    def variant(self) -> str:
        """The papers' name for this combination of contrast, generators and targets."""
        chosen, basis = self.chosen_contrast, _BASES[self.targets]
        if chosen.baseline is None:
            kind = _OUCL.get(self.contrast, f" ({self.contrast})")
            kind += ", centered" if getattr(chosen, "centered", False) else ""
            if not self.generators:
                return "only OUCL" + kind + (f" on {basis}" if basis else "")
            # The paper's name for MetAug on NNCLR.
            return (
                f"MetAug*{kind}"
                if self.targets == "neighbours"
                else "MetAug" + kind + (f" on {basis}" if basis else "")
            )
        baseline = chosen.baseline.replace("CMC", basis) if basis else chosen.baseline
        if not self.generators:
            return baseline
        return "only MAG" if baseline == "CMC" else f"only MAG on {baseline}"
