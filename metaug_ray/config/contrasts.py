"""The parameters of every contrast, beside its name.

A contrast is its function in `metaug_ray.method.contrast`, whose keywords are the fields of its class here, a field of
`ContrastSettings`, and a name in `metaug_ray.choices`. Where one of them is forgotten the import fails.
"""

from typing import ClassVar

from pydantic import Field

from metaug_ray.choices import ContrastName, check_complete
from metaug_ray.config.base import NotNegative, Positive, Settings


class Contrast(Settings):
    """Base of the contrasts' parameters."""

    baseline: ClassVar[str | None] = None
    """What the paper's tables call this contrast without generators; None for a kind of OUCL."""


class Unified(Contrast):
    """OUCL, the paper's contrast (Eq. 10)."""

    beta: Positive = 16.0
    """inverse temperature; the paper searches 2 to 256"""
    gamma: float = Field(0.25, ge=0, le=1)
    """relaxation factor; the paper searches 0.15 to 0.50"""
    centered: bool = False
    """compare similarities less their anchor's mean negative; not in the paper"""


class UnifiedEq8(Contrast):
    """OUCL without weights (Eq. 8)."""

    beta: Positive = 16.0
    """inverse temperature"""
    margin: float = Field(0.25, ge=-1, le=1)
    """margin (the paper's lambda)"""
    centered: bool = False
    """compare similarities less their anchor's mean negative; not in the paper"""


class UnifiedAttenuated(Contrast):
    """OUCL with attenuated weights (Eq. 9)."""

    beta: Positive = 16.0
    """inverse temperature"""
    gamma: float = Field(0.25, ge=0, le=1)
    """relaxation factor"""
    phi: float = Field(6.0, ge=1)
    """attenuation of the weights; best at 6 in figure 3"""
    centered: bool = False
    """compare similarities less their anchor's mean negative; not in the paper"""


class InfoNCE(Contrast):
    """InfoNCE: CMC with softmax."""

    baseline = "CMC"

    temperature: Positive = 0.07
    """temperature of the cosines"""


class DebiasedInfoNCE(Contrast):
    """InfoNCE corrected for false negatives (Chuang et al. 2020)."""

    baseline = "CMC + Debiased"

    temperature: Positive = 0.07
    """temperature of the cosines"""
    class_prior: float = Field(0.1, ge=0, lt=1)
    """chance that a negative is of the anchor's class"""


class HardInfoNCE(Contrast):
    """Debiased InfoNCE with hard negatives weighted up (Robinson et al. 2020)."""

    baseline = "CMC + Hard"

    temperature: Positive = 0.07
    """temperature of the cosines"""
    class_prior: float = Field(0.1, ge=0, lt=1)
    """chance that a negative is of the anchor's class"""
    concentration: NotNegative = 1.0
    """weight of hard negatives; 0 weighs all alike"""


class NCE(Contrast):
    """Noise-contrastive estimation: CMC as its authors train it."""

    baseline = "CMC (NCE)"

    temperature: Positive = 0.07
    """temperature of the cosines"""


class ContrastSettings(Settings):
    """Which contrast is trained, and the parameters of each: those of the one that is chosen count."""

    contrast: ContrastName = "unified"
    """unified: OUCL, Eq. 10; unified_eq8, unified_attenuated: its ablations, Eq. 8 and 9; info_nce, nce: CMC;
    debiased_info_nce, hard_info_nce: CMC + Debiased, CMC + Hard"""
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

    @property
    def chosen_contrast(self) -> Contrast:
        """Parameters of the contrast that is trained."""
        chosen: Contrast = getattr(self, self.contrast)
        return chosen


CONTRASTS = frozenset(ContrastSettings.model_fields) - {"contrast"}
"""Names of the fields that hold a contrast's parameters."""
check_complete("ContrastSettings", CONTRASTS, ContrastName)
