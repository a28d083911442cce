"""Settings of the two DELLA methods."""

from typing import Annotated, ClassVar

from pydantic import Field

from trivet.errors import MergeError
from trivet.merge._drop import RescaleSetting
from trivet.merge._group import TensorGroup
from trivet.merge._settings import Fraction, TaskVectorConfig, each

_HalfWidth = Annotated[float, Field(ge=0, lt=0.5)]


class MagnitudeConfig(TaskVectorConfig):
    """How much is kept, and how strongly that depends on the magnitude."""

    passes: ClassVar[int] = 2

    density: Fraction = Field(1.0, description="mean probability that an entry is kept")
    epsilon: _HalfWidth | tuple[_HalfWidth, ...] = Field(
        0.15, description="half-width of the keep probabilities around the density"
    )
    rescale: RescaleSetting = Field("l1", description="l1, inverse_keep_prob (the paper's) or none")

    def check(self, count: int, where: str) -> None:
        pairs = zip(each(self.density, count, "density"), each(self.epsilon, count, "epsilon"), strict=True)
        for density, epsilon in pairs:
            if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
                raise MergeError(
                    f"density {density:g} ± epsilon {epsilon:g} must lie within (0, 1)",
                    where=where,
                    hint="choose a smaller epsilon, or another density",
                )


def checked(config: MagnitudeConfig, tensor: TensorGroup) -> tuple[list[float], list[float]]:
    """Densities and half-widths of the experts; the densities are noted for the report.

    Raises:
        MergeError: density ± epsilon is not within (0, 1).
    """
    config.check(tensor.count, tensor.name)
    densities = each(config.density, tensor.count, "density")
    epsilons = each(config.epsilon, tensor.count, "epsilon")
    tensor.notes["density"] = densities
    return densities, epsilons
