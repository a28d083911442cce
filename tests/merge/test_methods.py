"""What holds of every merging method: reductions, shapes from one element up, inputs that are not changed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.catalogue import find, names
from trivet.errors import ConfigError, MergeError
from trivet.merge import merge_tensors
from trivet.merge._settings import fields_of

ALL = [name.removeprefix("merge/") for name in names("merge")]
SINGLE = {"slerp", "passthrough"}  # methods of exactly one other model
TASK_VECTORS = [
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs",
    "breadcrumbs_ties",
]  # fmt: skip
SHAPES = st.sampled_from([(1,), (2,), (7,), (1, 1), (1, 5), (5, 1), (3, 4), (9, 6), (2, 3, 4)])


def settings_of(method: str, **given_settings) -> dict:
    keys = fields_of(find(f"merge/{method}").config)
    needed = {key: {"t": 0.3}.get(key, 1.0) for key, field in keys.items() if field.is_required()}
    return {**needed, **given_settings}


def models(shape, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("method", ALL)
@settings(max_examples=12, deadline=None)
@given(shape=SHAPES, count=st.integers(1, 4), seed=st.integers(0, 99))
def test_shapes_from_one_element_up_and_any_blocks(method, shape, count, seed):
    base, experts = models(
        shape, 1 if method in SINGLE else max(count, 2 if method == "model_stock" else 1), seed
    )
    before = [expert.clone() for expert in experts]
    whole = merge_tensors(method, experts, base, **settings_of(method))
    assert whole.shape == torch.Size(shape) and whole.dtype == torch.float32
    assert torch.isfinite(whole).all()
    assert torch.equal(merge_tensors(method, experts, base, block_elements=3, **settings_of(method)), whole)
    assert all(torch.equal(one, other) for one, other in zip(experts, before, strict=True))


@pytest.mark.parametrize("method", TASK_VECTORS)
def test_lambda_zero_is_the_base_bit_by_bit(method):
    base, experts = models((8, 8), 3)
    assert torch.equal(merge_tensors(method, experts, base, **settings_of(method, lambda_=0.0)), base)


@pytest.mark.parametrize("method", TASK_VECTORS)
def test_all_kept_and_one_expert_is_that_expert(method):
    base, (expert,) = models((8, 8), 1)
    merged = merge_tensors(method, [expert], base, **settings_of(method))
    torch.testing.assert_close(merged, expert, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", TASK_VECTORS)
def test_a_base_is_needed(method):
    with pytest.raises(MergeError, match="base_model"):
        merge_tensors(method, models((2, 2), 2)[1], **settings_of(method))


@pytest.mark.parametrize("method", ["linear", *TASK_VECTORS])
def test_a_list_has_a_value_for_each_expert(method):
    base, experts = models((4, 4), 3)
    with pytest.raises(ConfigError, match="weight: 2 values for 3 experts"):
        merge_tensors(method, experts, base, **settings_of(method, weight=[1.0, 2.0]))


def test_bfloat16_is_computed_in_float32():
    base, experts = models((16, 16), 3)
    base, experts = base.bfloat16(), [expert.bfloat16() for expert in experts]
    merged = merge_tensors("task_arithmetic", experts, base, weight=0.3)
    exact = base.double() + 0.3 * sum(expert.double() - base.double() for expert in experts)
    torch.testing.assert_close(merged.double(), exact, rtol=1e-6, atol=1e-6)


def test_unknown_settings_are_named():
    base, experts = models((2, 2), 2)
    with pytest.raises(ConfigError, match="did you mean 'density'"):
        merge_tensors("ties", experts, base, weight=1, densty=0.5)
    with pytest.raises(ConfigError, match="did you mean 'merge/ties'"):
        merge_tensors("tie", experts, base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge_method": "della", "parameters": {"density": 0.9}}, r"density 0\.9 ± epsilon 0\.15"),
        ({"merge_method": "rewarded_soup", "base_model": ...}, r"sum to 0\.9, not to 1"),
        ({"merge_method": "linear", "base_model": ...}, "sum to 0, and normalize"),
    ],
)
def test_settings_that_do_not_go_together_are_told_before_anything_is_read(
    write_recipe, variants, changes, message
):
    from trivet.merge.checkpoint import open_merge

    weights = (1.0, -1.0) if changes["merge_method"] == "linear" else (0.5, 0.4)
    models = [
        {"model": str(variants / one), "parameters": {"weight": weight}}
        for one, weight in zip(("one", "two"), weights, strict=True)
    ]
    with pytest.raises(MergeError, match=message):
        open_merge(write_recipe(models=models, **changes))


def opened(write_recipe, variants, *names, own=None, **changes):
    from trivet.merge.checkpoint import open_merge

    models = [{"model": str(variants / one), "parameters": own or {}} for one in names]
    merge, _ = open_merge(write_recipe(models=models, **changes))
    merge.sources.close()
    return merge.layout.outputs[0].config


@pytest.mark.parametrize(
    ("method", "names", "changes", "message"),
    [
        (
            "slerp",
            ("one", "two"),
            {"parameters": {"t": 0.5}},
            "slerp takes the base and one other model, not 2",
        ),
        ("slerp", ("one", "two"), {"parameters": {"t": 0.5}, "base_model": ...}, "slerp needs base_model"),
        ("model_stock", ("one",), {}, "model_stock needs at least two experts, not 1"),
        ("model_stock", ("one", "two"), {"base_model": ...}, "model_stock needs base_model"),
        ("passthrough", ("one", "two"), {}, "passthrough takes one source, not 2"),
        ("tsvm", ("one", "two"), {"base_model": ...}, "tsvm needs base_model"),
        *[(one, ("one",), {"base_model": ...}, f"{one} needs base_model") for one in TASK_VECTORS],
    ],
)
def test_models_that_a_method_cannot_take_are_told_before_anything_is_read(
    write_recipe, variants, method, names, changes, message
):
    own = {"weight": 1.0} if method in TASK_VECTORS else {}
    with pytest.raises(MergeError, match=message):
        opened(write_recipe, variants, *names, own=own, merge_method=method, **changes)


@pytest.mark.parametrize("method", ALL)
def test_who_needs_a_base_says_so(method):
    """``needs_base`` is what is checked before, ``require_base`` what is checked at last: they agree."""
    needs = find(f"merge/{method}").config.needs_base
    experts = models((4, 4), 1 if method in SINGLE else 2)[1]
    if needs:
        with pytest.raises(MergeError, match="base_model"):
            merge_tensors(method, experts, **settings_of(method))
    elif method != "rewarded_soup":
        merge_tensors(method, experts, **settings_of(method))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weight": 1, "density": 1.2},
            r"density: Input should be less than or equal to 1 \(received 1\.2\)",
        ),
        ({"weight": "half"}, r"weight: Input should be a valid number, .* \(received 'half'\)"),
        ({"weight": -2000}, r"weight: Input should be greater than or equal to -1000 \(received -2000\)"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_its_expert_and_the_bound(
    write_recipe, variants, settings, message
):
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: model\.embed_tokens\.weight: .*/one: {message}"):
        opened(write_recipe, variants, "one", own=settings, merge_method="ties")


@pytest.mark.parametrize(("given", "meant"), [(1, "l1"), (0, "none"), (True, "l1"), ("l1", "l1")])
@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_rescale_may_be_mergekits_truth_value(write_recipe, variants, method, given, meant):
    parameters = {"weight": 1, "density": 0.5, "rescale": given}
    config = opened(write_recipe, variants, "one", merge_method=method, parameters=parameters)
    assert config.rescale == meant
    with pytest.raises(ConfigError, match="rescale"):
        opened(write_recipe, variants, "one", merge_method=method, parameters={**parameters, "rescale": 2})
