"""Settings and masks of the two Breadcrumbs methods."""

from typing import ClassVar

from pydantic import Field

from trivet.merge._drop import TrimRescaleSetting
from trivet.merge._group import TensorGroup
from trivet.merge._settings import Fraction, TaskVectorConfig, each
from trivet.merge._trim import Kept, band


class OutlierConfig(TaskVectorConfig):
    """How much is kept, and how much of the top is left out."""

    passes: ClassVar[int] = 3

    density: Fraction = Field(1.0, description="share of each tensor's entries that is kept")
    gamma: Fraction = Field(0.01, description="share of the largest entries that is left out")
    rescale: TrimRescaleSetting = Field(
        "none", description="l1 restores the sum of magnitudes after trimming (mergekit's rescale: true)"
    )


def kept_of(config: OutlierConfig, tensor: TensorGroup) -> Kept:
    """What each expert keeps; at density 1 everything, outliers too. Noted for the report."""
    densities = each(config.density, tensor.count, "density")
    gammas = each(config.gamma, tensor.count, "gamma")
    counts = [masked_counts(tensor.elements, *pair) for pair in zip(densities, gammas, strict=True)]
    found = band(tensor, counts)
    tensor.notes["density"] = [one.density for one in found]
    return Kept(tensor, found, config.rescale)


def masked_counts(elements: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest are left out, and how many are then kept."""
    if density >= 1:
        return 0, elements
    kept = int(density * elements)
    return min(int(gamma * elements), elements - kept), kept
