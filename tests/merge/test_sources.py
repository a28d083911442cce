"""What a recipe's names mean: models, adapters of the base, adapters of a named model."""

import pytest
import torch
from tests.merge.conftest import make_adapter

from trivet.errors import MergeError
from trivet.merge.sources import Sources

QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def folder(variants, tmp_path_factory):
    """A folder with ``base`` and the adapters ``ad1`` and ``ad2`` of it."""
    root = tmp_path_factory.mktemp("adapters")
    (root / "base").symlink_to(variants / "base")
    for seed in (1, 2):
        make_adapter(variants / "base", root / f"ad{seed}", seed=seed)
    return root


def test_a_bare_adapter_belongs_to_the_base(folder):
    sources = Sources(folder, "./base")
    base, bare, named = (sources.open(name) for name in ("./base", "./ad1", "./base+./ad1"))
    assert bare.adapter is not None and bare.weights is base.weights is named.weights
    assert torch.equal(bare.rows(QUERY, 0, 4), named.rows(QUERY, 0, 4))
    sources.close()


def test_under_a_base_with_an_adapter_the_model_is_to_be_named(folder):
    sources = Sources(folder, "./base+./ad1")
    with pytest.raises(MergeError) as raised:
        sources.open("./ad2")
    said = str(raised.value)
    assert "./ad2: is an adapter, and base_model has one of its own: ./base+./ad1" in said
    assert "MODEL+ADAPTER: ./base+./ad2" in said
    base, expert = sources.open("./base+./ad1"), sources.open("./base+./ad2")
    assert not torch.equal(base.rows(QUERY, 0, 4), expert.rows(QUERY, 0, 4))
    sources.close()


@pytest.mark.parametrize(
    ("base", "message"),
    [(None, "the recipe names no base_model"), ("./ad1", "base_model is that adapter alone")],
)
def test_an_adapter_needs_a_model(folder, base, message):
    sources = Sources(folder, base)
    with pytest.raises(MergeError, match=rf"ad1: is an adapter, and {message}[\s\S]*MODEL\+ADAPTER"):
        sources.open("./ad1")
    with pytest.raises(MergeError, match=message if base is None else "ad1: is an adapter"):
        sources.open("./ad2")
