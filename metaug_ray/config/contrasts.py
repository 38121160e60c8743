"""The parameters of every contrast, beside its name.

A contrast is its function, which the table `metaug_ray.method.contrast.build.CONTRASTS` names, and its settings here: a
class whose fields are the function's keywords, and a field of `Contrasts`. Where one of them is forgotten,
`metaug_ray.training.contrasts` fails at its import.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from pydantic import Field

from metaug_ray.config.base import NotNegative, Positive, Settings


class Contrast(Settings):
    """Base of the contrasts' parameters."""

    baseline: ClassVar[str | None] = None
    """What the paper's tables call this contrast without generators; None for a kind of OUCL."""


class UnifiedEq8(Contrast):
    """OUCL without weights (Eq. 8)."""

    beta: Positive = 16.0
    """inverse temperature; the paper searches 2 to 256"""
    margin: float = Field(0.25, ge=-1, le=1)
    """margin (the paper's lambda)"""
    centered: bool = False
    """compare similarities less their anchor's mean negative; not in the paper"""


class Unified(Contrast):
    """OUCL, the paper's contrast (Eq. 10)."""

    beta: Positive = 16.0
    """inverse temperature; the paper searches 2 to 256"""
    gamma: float = Field(0.25, ge=0, le=1)
    """relaxation factor; the paper searches 0.15 to 0.50"""
    centered: bool = False
    """compare similarities less their anchor's mean negative; not in the paper"""


class UnifiedAttenuated(Unified):
    """OUCL with attenuated weights (Eq. 9)."""

    phi: float = Field(6.0, ge=1)
    """attenuation of the weights; best at 6 in figure 3"""


class InfoNCE(Contrast):
    """InfoNCE: CMC with softmax."""

    baseline = "CMC"

    temperature: Positive = 0.07
    """temperature of the cosines"""


class DebiasedInfoNCE(InfoNCE):
    """InfoNCE corrected for false negatives (Chuang et al. 2020)."""

    baseline = "CMC + Debiased"

    class_prior: float = Field(0.1, ge=0, lt=1)
    """chance that a negative is of the anchor's class"""


class HardInfoNCE(DebiasedInfoNCE):
    """Debiased InfoNCE with hard negatives weighted up (Robinson et al. 2020)."""

    baseline = "CMC + Hard"

    concentration: NotNegative = 1.0
    """weight of hard negatives; 0 weighs all alike"""


class NCE(Contrast):
    """Noise-contrastive estimation: CMC as its authors train it."""

    baseline = "CMC (NCE)"

    temperature: Positive = 0.07
    """temperature of the cosines"""


class Contrasts(Settings):
    """The parameters of each contrast: those of the one that is trained count."""

    unified: Unified = Unified()
    """parameters of unified"""
    unified_eq8: UnifiedEq8 = UnifiedEq8()
    """parameters of unified_eq8"""
    unified_attenuated: UnifiedAttenuated = UnifiedAttenuated()
    """parameters of unified_attenuated"""
    info_nce: InfoNCE = InfoNCE()
    """parameters of info_nce"""
    debiased_info_nce: DebiasedInfoNCE = DebiasedInfoNCE()
    """parameters of debiased_info_nce"""
    hard_info_nce: HardInfoNCE = HardInfoNCE()
    """parameters of hard_info_nce"""
    nce: NCE = NCE()
    """parameters of nce"""


CONTRASTS = tuple(Contrasts.model_fields)
"""Names of all contrasts."""

if TYPE_CHECKING:
    ContrastName: TypeAlias = str
else:
    ContrastName = Literal[*CONTRASTS]
