"""DARE: drop most of each task vector at random, rescale the rest, and add.

"Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch"
(arXiv 2311.03099): the entries of a task vector are so redundant that dropping a share p = 1 − ``density`` of
them at random and dividing the rest by 1 − p hardly changes what the model does, while the sparse vectors
collide less:

    D̃_t = m_t ⊙ D_t / (1 − p),  m_t ~ Bernoulli(1 − p);   W = W_0 + λ Σ_t w_t D̃_t.

``rescale: inverse_keep_prob`` is the paper's rescaling; ``l1`` (the default, ``rescale: true`` in a recipe
of mergekit) restores the sum of magnitudes instead. What is dropped follows from the recipe's seed, the
tensor's name and the entry's place alone. It costs a random number for each entry, and with ``l1`` a second
look.

One of the methods compared in "Mix Data or Merge Models?" (arXiv 2502.06876).
"""

from typing import ClassVar

import torch
from pydantic import Field

from trivet.catalogue import method
from trivet.merge._drop import Dropped, RescaleSetting, bernoulli
from trivet.merge._group import Block, Merged, TensorGroup
from trivet.merge._settings import Fraction, TaskVectorConfig, each
from trivet.merge._task_vectors import add_to_base, plain_sum


class Config(TaskVectorConfig):
    """How much is kept, and how the rest is rescaled."""

    passes: ClassVar[int] = 2

    density: Fraction = Field(
        1.0, description="probability that an entry is kept (the paper goes down to 0.1)"
    )
    rescale: RescaleSetting = Field("l1", description="l1, inverse_keep_prob (the paper's) or none")


@method(paper="2502.06876", version=2, takes=("Checkpoint",), gives=("Checkpoint",))
def merge(config: Config, tensor: TensorGroup) -> Merged:
    """Drop, rescale, add for each block.

    Raises:
        MergeError: the recipe has no base.
    """
    tensor.require_base()
    weights = each(config.weight, tensor.count, "weight")
    densities = each(config.density, tensor.count, "density")
    dropped = Dropped(tensor, bernoulli(tensor, densities, config.rescale), config.rescale)
    tensor.notes["density"] = densities

    def block(rows: Block) -> torch.Tensor:
        assert rows.base is not None
        left = dropped.deltas(rows)
        return add_to_base(rows.base, plain_sum(left, weights, normalize=config.normalize), config)

    return block
