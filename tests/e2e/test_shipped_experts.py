"""The adapters that ship for the merged system are what their cards say, and change the embedded model."""

import json
import math
from pathlib import Path

import pytest

from trivet.models.embedded import HUB_ID
from trivet.statistics.proportions import wilson

EXPERTS = Path(__file__).parents[2] / "examples" / "merge" / "experts"
NAMES = ["harmless", "helpful", "honest"]
TARGETS = ["k_proj", "o_proj", "q_proj", "v_proj"]


def figures(name):
    return json.loads((EXPERTS / name / "figures.json").read_text(encoding="utf-8"))


def test_nothing_else_ships():
    files = {path.relative_to(EXPERTS).as_posix() for path in EXPERTS.rglob("*") if path.is_file()}
    parts = ["README.md", "adapter_config.json", "adapter_model.safetensors", "figures.json"]
    assert files == {f"{name}/{part}" for name in NAMES for part in parts}


@pytest.mark.parametrize("name", NAMES)
def test_config_and_size(name):
    config = json.loads((EXPERTS / name / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == HUB_ID
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM"
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["target_modules"] == TARGETS
    # What would make the delta of a layer more than the product of two factors.
    assert config["bias"] == "none" and not config["use_dora"] and not config["modules_to_save"]
    size = (EXPERTS / name / "adapter_model.safetensors").stat().st_size
    assert size < 1_000_000 and size == figures(name)["adapter"]["bytes"]


@pytest.mark.parametrize("name", NAMES)
def test_tensors(name):
    import torch
    from safetensors.torch import load_file

    tensors = load_file(EXPERTS / name / "adapter_model.safetensors")
    assert len(tensors) == 30 * len(TARGETS) * 2
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.float16 and torch.isfinite(tensor).all(), key
        assert tensor.shape[0 if ".lora_A." in key else 1] == 4, key
        assert tensor.any(), f"{key} was never trained"


def test_each_starts_from_factors_of_its_own():
    """Equal ones would make merges by singular vectors ill-posed: all deltas had the same row space."""
    import torch
    from safetensors.torch import load_file

    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    factors = [load_file(EXPERTS / name / "adapter_model.safetensors")[key].float() for name in NAMES]
    assert torch.linalg.matrix_rank(torch.cat(factors)) == 4 * len(NAMES)
    assert torch.linalg.svdvals(torch.cat(factors)).min() > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_card_says_what_was_measured(name):
    entry, text = figures(name), (EXPERTS / name / "README.md").read_text(encoding="utf-8")
    held_out = entry["held_out"]
    n = held_out["pairs"]
    assert n >= 30
    for part in ("before", "after", "reward", "longer"):
        figure = held_out[part]
        interval = wilson(figure["right"], n)
        assert (figure["low"], figure["high"]) == pytest.approx((interval.low, interval.high))
        assert (
            f"{100 * figure['rate']:.1f} % | {100 * figure['low']:.1f} to {100 * figure['high']:.1f} %"
            in text
        )
    net = held_out["after"]["right"] - held_out["before"]["right"]
    difference = held_out["difference"]
    assert difference["rate"] == pytest.approx(net / n)
    assert difference["low"] < difference["rate"] < difference["high"]
    assert entry["data"]["licence"] in ("MIT", "Apache-2.0") and entry["data"]["licence"] in text
    assert f"--experts {name} --steps {entry['training']['steps']} --seed {entry['training']['seed']}" in text


@pytest.mark.model
def test_adapters_load_and_change_the_answer(embedded_model):
    peft = pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trivet.models import embedded

    folder = embedded.folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Can you see the Great Wall of China from space?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    found = {}
    with torch.no_grad():
        plain = base(**inputs).logits
        model = peft.PeftModel.from_pretrained(base, EXPERTS / NAMES[0], adapter_name=NAMES[0])
        for name in NAMES[1:]:
            model.load_adapter(EXPERTS / name, adapter_name=name)
        for name in NAMES:
            model.set_adapter(name)
            found[name] = model(**inputs).logits
        with model.disable_adapter():
            assert torch.equal(model(**inputs).logits, plain)
    for name, logits in found.items():
        assert torch.isfinite(logits).all()
        moved = (logits.log_softmax(-1) - plain.log_softmax(-1)).abs().max().item()
        assert 1e-2 < moved < math.inf, f"{name} moves no log-probability by more than {moved}"
    for first, second in (("helpful", "honest"), ("honest", "harmless"), ("harmless", "helpful")):
        assert not torch.allclose(found[first], found[second], atol=1e-2)
