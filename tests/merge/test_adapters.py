"""LoRA adapters give the delta that PEFT gives."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.merge.conftest import make_adapter

from trivet.errors import MergeError
from trivet.merge.adapters import Adapter
from trivet.merge.weights import Weights
from trivet.models.names import is_adapter

KINDS = [
    {},
    {"use_rslora": True},
    {"r": 3, "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"layers.0.self_attn.q_proj": 2}},
    {"target_modules": "all-linear"},
]


@pytest.mark.parametrize("settings", KINDS, ids=["plain", "rslora", "patterns", "all"])
def test_base_plus_delta_is_what_peft_merges(variants, tmp_path, settings):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = make_adapter(variants / "base", tmp_path / "adapter", **settings)
    assert is_adapter(folder) and not is_adapter(variants / "base")
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(variants / "base"), folder
    ).merge_and_unload()
    base = Weights(variants / "base")
    adapter = Adapter(folder, base)
    changed = 0
    for name, value in model.state_dict().items():
        if name not in base.entries:
            continue
        expected = base.read(name)
        if adapter.changes(name):
            changed += 1
            rows = expected.shape[0]
            whole = adapter.delta(name, 0, rows)
            assert torch.equal(
                torch.cat([adapter.delta(name, 0, 3), adapter.delta(name, 3, rows - 3)]), whole
            )
            up, down = adapter.factors(name) or (None, None)
            torch.testing.assert_close(up @ down, whole)
            expected = expected + whole
        torch.testing.assert_close(value.view(expected.shape), expected, rtol=1e-5, atol=1e-6)
    assert changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only LoRA"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' moved part of the base"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
    ],
)
def test_other_kinds_are_refused_with_the_way_out(variants, tmp_path, change, message):
    folder = make_adapter(variants / "base", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(MergeError, match=message):
        Adapter(folder, Weights(variants / "base"))


def test_an_adapter_of_another_model_is_refused(variants, tmp_path, tiny_model):
    folder = make_adapter(variants / "base", tmp_path / "adapter")
    other = tiny_model(hidden_size=64)
    with pytest.raises(MergeError, match=r"belongs to one base model"):
        Adapter(folder, Weights(other))


def test_half_a_pair_and_foreign_keys_are_refused(variants, tmp_path):
    folder = make_adapter(variants / "base", tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if "lora_A" in key)
    save_file({name: value for name, value in tensors.items() if name != key}, file)
    with pytest.raises(MergeError, match="do not fit together"):
        Adapter(folder, Weights(variants / "base"))
    save_file({**tensors, "something.else": torch.ones(1)}, file)
    with pytest.raises(MergeError, match=r"something\.else"):
        Adapter(folder, Weights(variants / "base"))
    shutil.rmtree(folder)


def test_an_adapter_that_names_another_base_is_told(variants, tmp_path):
    from trivet.merge.checkpoint import open_merge

    folder = make_adapter(variants / "base", tmp_path / "adapter")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(variants / "base"),
        "models": [{"model": str(folder), "parameters": {"weight": 1}}],
    }

    def notes() -> tuple[str, ...]:
        merge, _ = open_merge(recipe)
        merge.sources.close()
        return merge.layout.notes

    assert notes() == ()
    config = json.loads((folder / "adapter_config.json").read_text())
    for named in ("someone/BASE", None, str(variants / "base") + "/"):
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))
        assert notes() == (), named
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "someone/base-360M"})
    )
    (note,) = notes()
    assert "says that it belongs to someone/base-360M; it is put on base" in note
