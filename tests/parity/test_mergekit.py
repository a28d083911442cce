"""The same tensors and the same recipes through mergekit 0.1.5, which is LGPL and used here alone."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests.conftest import make_tiny_model
from tests.merge.conftest import change

from trivet.merge import merge_checkpoints, merge_tensors
from trivet.merge._trim import kept_count

pytestmark = pytest.mark.full
pytest.importorskip("mergekit")

SHAPES = [(1,), (5,), (100,), (1, 1), (8, 16), (33, 17)]
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"weight": [1.0, 0.5, 2.0]}),
    ("linear", {"weight": [1.0, 0.5, 2.0], "normalize": False}),
    ("task_arithmetic", {"weight": [0.5, 0.3, -0.2]}),
    ("task_arithmetic", {"weight": [0.5, 0.3, 0.7], "normalize": True, "lambda": 0.7}),
    ("ties", {"weight": [0.5, 0.3, 0.7], "density": 1.0}),
    ("ties", {"weight": [0.5, 0.3, 0.7], "density": [0.2, 0.5, 0.9], "lambda": 1.3}),
    ("ties", {"weight": 1.0, "density": 0.3, "normalize": False}),
    ("breadcrumbs", {"weight": [0.5, 0.3, 0.7], "density": 0.5, "gamma": 0.1}),
    ("breadcrumbs_ties", {"weight": 0.5, "density": 0.6, "gamma": 0.02}),
]


def models(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


def theirs(
    method: str, experts: list[torch.Tensor], base: torch.Tensor | None, settings: dict[str, Any]
) -> torch.Tensor:
    from mergekit.merge_methods.api import merge_tensors as peer

    tensors = experts if base is None else [base, *experts]
    return peer(tensors, method, parameters=settings, base_index=None if base is None else 0)


def steps_apart(one: torch.Tensor, two: torch.Tensor, scale: torch.Tensor) -> int:
    """The largest distance in units in the last place of the base's numbers."""
    unit = torch.from_numpy(np.spacing(scale.abs().float().numpy()))
    return int(((one - two).abs() / unit).max().ceil()) if one.numel() else 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("method", "settings"), EXACT)
def test_the_same_tensor_within_one_unit_in_the_last_place(method, settings, shape):
    base, experts = models(shape)
    if method == "linear":
        ours, peer = merge_tensors(method, experts, **settings), theirs(method, experts, None, settings)
    else:
        renamed = {"lambda_" if key == "lambda" else key: value for key, value in settings.items()}
        ours, peer = merge_tensors(method, experts, base, **renamed), theirs(method, experts, base, settings)
    scale = torch.stack([base, *experts, ours]).abs().amax(0)
    assert steps_apart(ours, peer, scale) <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", {"weight": [0.5, 0.3, 0.7], "density": 0.3, "rescale": True}),
        ("breadcrumbs", {"weight": 0.5, "density": 0.4, "gamma": 0.1, "rescale": True}),
    ],
)
def test_rescaled_tensors_agree_up_to_the_rounding_of_the_sums(method, settings, shape):
    """mergekit sums the magnitudes in float32, and its factor is off in the last places; ours in float64."""
    base, experts = models(shape)
    ours, peer = merge_tensors(method, experts, base, **settings), theirs(method, experts, base, settings)
    torch.testing.assert_close(ours, peer, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_is_at_least_as_near_to_the_exact_value(shape, filter_wise):
    """mergekit takes the cosines in float32, which the ratio magnifies; ours are in float64."""
    base, experts = models(shape)
    settings = {"filter_wise": filter_wise}
    peer_exact = theirs("model_stock", [one.double() for one in experts], base.double(), settings)
    peer = theirs("model_stock", experts, base, settings)
    ours = merge_tensors("model_stock", experts, base, **settings)
    scale = torch.stack([base, *experts, ours]).abs().amax(0)
    error = steps_apart(ours.double(), peer_exact, scale)
    assert error <= max(2, steps_apart(peer.double(), peer_exact, scale))
    torch.testing.assert_close(ours, peer, rtol=1e-5, atol=1e-5)


def test_slerp():
    base, (expert,) = models((8, 16), 1)
    for t in (0.0, 0.3, 1.0):
        ours = merge_tensors("slerp", [expert], base, t=t)
        peer = theirs("slerp", [expert], base, {"t": t})
        assert steps_apart(ours, peer, torch.maximum(base.abs(), expert.abs())) <= 2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_trimming_keeps_as_many_and_differs_at_ties_alone(shape, density):
    from mergekit.sparsify import magnitude

    generator = torch.Generator().manual_seed(1)
    # Multiples of 1/8 tie often.
    delta = (torch.randn(shape, generator=generator) * 8).round() / 8 + 1 / 16
    zeros = torch.zeros(shape)
    ours = merge_tensors("task_arithmetic", [delta], zeros, weight=1)
    trimmed = merge_tensors("ties", [delta], zeros, weight=1, density=density)
    peer = magnitude(delta, density)
    count = kept_count(density, delta.numel())
    assert int((trimmed != 0).sum()) == int((peer != 0).sum()) == count
    differing = (trimmed != peer).flatten()
    if differing.any():
        threshold = delta.abs().flatten().sort(descending=True).values[count - 1]
        assert (delta.abs().flatten()[differing] == threshold).all()
    assert torch.equal(ours, delta)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_random_dropping_agrees_in_distribution(method):
    """Share kept and rescaling factor, over many draws of both."""
    delta = torch.randn(64, 32, generator=torch.Generator().manual_seed(2))
    zeros, draws = torch.zeros_like(delta), 60
    ours = [merge_tensors(method, [delta], zeros, weight=1, density=0.6, seed=seed) for seed in range(draws)]
    torch.manual_seed(0)
    peer = [theirs(method, [delta], zeros, {"weight": 1.0, "density": 0.6}) for _ in range(draws)]
    shares = [float(torch.stack([(one != 0).float().mean() for one in kept]).mean()) for kept in (ours, peer)]
    assert shares[0] == pytest.approx(0.6, abs=0.005) and shares[1] == pytest.approx(0.6, abs=0.005)
    sums = [float(torch.stack([one.abs().sum() for one in kept]).mean()) for kept in (ours, peer)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)  # both restore the sum of magnitudes
    large = delta.abs() > delta.abs().quantile(0.9)
    kept_large = [
        float(torch.stack([(one[large] != 0).float().mean() for one in kept]).mean()) for kept in (ours, peer)
    ]
    assert kept_large[0] == pytest.approx(kept_large[1], abs=0.02)


# Whole runs on the embedded model


@pytest.fixture(scope="module")
def embedded_variants(tmp_path_factory: pytest.TempPathFactory, embedded_model: str) -> Path:
    """The embedded model in float32, and three variants of it."""
    import shutil

    from trivet.models import embedded

    source = embedded.folder()
    assert source is not None
    root = tmp_path_factory.mktemp("embedded")
    tensors = load_file(source / "model.safetensors")
    for seed, name in enumerate(("base", "helpful", "honest", "harmless")):
        (root / name).mkdir()
        for file in source.iterdir():
            if file.suffix in {".json", ".jinja", ".txt"}:
                shutil.copy(file, root / name)
        generator = torch.Generator().manual_seed(seed)
        changed = {
            key: value + 0.02 * value.std() * torch.randn(value.shape, generator=generator) if seed else value
            for key, value in tensors.items()
        }
        save_file(changed, root / name / "model.safetensors", metadata={"format": "pt"})
    return root


def recipe_of(root: Path, method: str, dtypes: dict[str, str], **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": str(root / "base"),
        "models": [
            {"model": str(root / name), "parameters": {"weight": weight}}
            for name, weight in (("helpful", 0.5), ("honest", [0.2, 0.4]), ("harmless", 0.3))
        ],
        "parameters": parameters,
        **dtypes,
    }


def run_peer(recipe: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(path), str(folder / "peer")]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=1500)
    print(f"mergekit took {time.monotonic() - started:.0f} s")
    return load_file(folder / "peer/model.safetensors")


@pytest.mark.model
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {"lambda": [{"filter": "mlp", "value": 0.8}, {"value": [0.5, 1.0]}]}),
        ("ties", {"density": [0.3, 0.7]}),
    ],
)
def test_whole_recipes_on_the_embedded_model(embedded_variants, tmp_path, method, parameters):
    recipe = recipe_of(embedded_variants, method, {"dtype": "float32", "out_dtype": "bfloat16"}, **parameters)
    peer = run_peer(recipe, tmp_path)
    merge_checkpoints(recipe, tmp_path / "ours")
    ours = load_file(tmp_path / "ours/model.safetensors")
    assert set(ours) == set(peer)
    apart = 0
    for name, value in ours.items():
        assert value.dtype == peer[name].dtype == torch.bfloat16 and value.shape == peer[name].shape
        gap = (value.view(torch.int16).int() - peer[name].view(torch.int16).int()).abs()
        apart += int((gap > 1).sum())
    total = sum(value.numel() for value in ours.values())
    print(f"{method}: {apart} of {total:,} numbers are more than one step of bfloat16 apart")
    # What is left are ties at a trimming threshold, and sums of task vectors that are 0 up to rounding.
    assert apart <= (0 if method == "task_arithmetic" else total * 1e-5)


# Whole runs on tiny models: how recipes are read, and the layers that slices take


@pytest.fixture(scope="module")
def tiny_variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ``base`` of four layers and its variants ``one``, ``two``, ``three`` (float32, untied)."""
    root = tmp_path_factory.mktemp("tiny")
    for place, name in enumerate(("base", "one", "two", "three")):
        make_tiny_model(root / name, tie_word_embeddings=False, num_hidden_layers=4)
        if place:
            change(root / name, seed=place)
    return root


def slice_of(*sources: tuple[str, int, int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "sources": [
            {"model": model, "layer_range": [first, end], "parameters": parameters}
            for model, first, end, parameters in sources
        ]
    }


BY_NAME = [{"filter": "mlp", "value": 0.7}, {"value": [0.1, 0.9]}]
SCALES = [{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.5}, {"value": 1.0}]
TINY: dict[str, dict[str, Any]] = {
    "linear": {
        "merge_method": "linear",
        "models": [
            {"model": "base", "parameters": {"weight": 0.3}},
            {"model": "one", "parameters": {"weight": [0, 1]}},
            {"model": "two", "parameters": {"weight": BY_NAME}},
        ],
    },
    "linear of slices": {
        "merge_method": "linear",
        "slices": [
            slice_of(("one", 0, 3, {"weight": [0.2, 0.9]}), ("two", 1, 4, {"weight": 1.0})),
            slice_of(("two", 3, 4, {"weight": 1.0})),
        ],
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "base",
        "slices": [slice_of(("base", 0, 4, {}), ("one", 0, 4, {}))],
        "parameters": {
            "t": [
                {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
                {"value": 0.5},
            ]
        },
    },
    "model_stock": {
        "merge_method": "model_stock",
        "base_model": "base",
        "models": [{"model": name} for name in ("one", "two", "three")],
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs",
        "base_model": "base",
        "models": [
            {"model": "one", "parameters": {"weight": 0.5}},
            {"model": "two", "parameters": {"weight": [0.2, 0.6], "density": 0.4}},
        ],
        "parameters": {"density": 0.8, "gamma": 0.1},
    },
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [slice_of(("base", 0, 3, {})), slice_of(("one", 1, 4, {"scale": SCALES}))],
    },
}


def with_folders(value: Any, root: Path) -> Any:
    """A recipe whose models are folders of ``root``."""
    if isinstance(value, dict):
        return {
            key: str(root / entry) if key in ("model", "base_model") else with_folders(entry, root)
            for key, entry in value.items()
        }
    return [with_folders(entry, root) for entry in value] if isinstance(value, list) else value


@pytest.mark.filterwarnings("ignore")  # mergekit's own
@pytest.mark.parametrize("name", TINY)
def test_whole_recipes_on_tiny_models(tiny_variants, tmp_path, name):
    """Within one unit in the last place, or at least as near to the exact value as mergekit is.

    Exact is what mergekit finds in double precision. Where a sum is rounded several times, both are up to
    three units from that, each in its own direction.
    """
    from mergekit.scripts.run_yaml import main  # the command itself; importing it anew takes ten seconds

    recipe = with_folders(TINY[name], tiny_variants)
    for folder, dtype in (("peer", "float32"), ("exact", "float64")):
        (tmp_path / f"{folder}.yaml").write_text(yaml.safe_dump({**recipe, "dtype": dtype}))
        main([str(tmp_path / f"{folder}.yaml"), str(tmp_path / folder), "--quiet"], standalone_mode=False)
    merge_checkpoints(tmp_path / "peer.yaml", tmp_path / "ours")
    ours, peer, exact = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("ours", "peer", "exact")
    )
    assert set(ours) == set(peer)
    models = [load_file(folder / "model.safetensors") for folder in tiny_variants.iterdir()]
    apart = [0, 0, 0]
    for tensor, value in ours.items():
        assert value.shape == peer[tensor].shape and value.dtype == peer[tensor].dtype == torch.float32
        inputs = [model[tensor].abs() for model in models if tensor in model]
        scale = torch.stack([value.abs(), *inputs]).amax(0)
        pairs = (value, peer[tensor]), (value, exact[tensor]), (peer[tensor], exact[tensor])
        found = [steps_apart(one.double(), other.double(), scale) for one, other in pairs]
        assert found[0] <= 1 or found[1] <= found[2], (tensor, found)
        apart = [max(both) for both in zip(apart, found, strict=True)]
    print(f"{name}: {apart[0]} units apart; from the exact value {apart[1]} and mergekit {apart[2]}")
    configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("ours", "peer")]
    assert configs[0]["num_hidden_layers"] == configs[1]["num_hidden_layers"]
