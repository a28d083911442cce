"""Models that do not fit are refused, and no tensor vanishes without a word."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trivet.errors import MergeError
from trivet.merge import merge_checkpoints
from trivet.merge.checkpoint import open_merge


@pytest.fixture
def copied(variants, tmp_path):
    """Copies a variant; keyword arguments are tensors to add to it, ``__`` for a dot."""

    def copy(name, like="one", **changes):
        folder = tmp_path / name
        shutil.copytree(variants / like, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors |= {key.replace("__", "."): value for key, value in changes.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


def recipe(base, *experts, **changes):
    models = [{"model": str(expert), "parameters": {"weight": 0.5}} for expert in experts]
    return {"merge_method": "task_arithmetic", "base_model": str(base), "models": models, **changes}


def planned(content):
    """(names of the output's tensors, notes)."""
    merge, _ = open_merge(content)
    merge.sources.close()
    return {output.name for output in merge.layout.outputs}, merge.layout.notes


BIAS = "model.layers.0.self_attn.q_proj.bias"


def test_the_tensors_are_those_of_the_base_within_the_layers_too(variants, tiny_model):
    plain = variants / "one"
    biased = tiny_model(tie_word_embeddings=False, attention_bias=True)
    with pytest.raises(MergeError, match=rf"lacks the tensor {BIAS.replace('q_proj', '._proj')}"):
        planned(recipe(biased, plain))
    with pytest.raises(MergeError, match="lacks the tensor"):
        planned(recipe(biased, biased, plain))
    names, notes = planned(recipe(plain, biased))
    assert names == set(load_file(plain / "model.safetensors"))
    (note,) = notes
    assert f"{biased}: left out, not in {plain}: " in note and "q_proj.bias" in note
    assert note.endswith("and 4 more")
    names, notes = planned({**recipe(biased, biased), "merge_method": "linear"})
    assert BIAS in names and not notes


def test_models_of_another_depth_are_refused(variants, tiny_model):
    for layers in (1, 3):
        other = tiny_model(num_hidden_layers=layers, tie_word_embeddings=False)
        with pytest.raises(MergeError, match=rf"has {layers} layers?, and .*base has 2.*\n.*`slices`"):
            planned(recipe(variants / "base", variants / "one", other))
        with pytest.raises(MergeError, match=rf"has 2 layers, and .* has {layers}"):
            planned(recipe(other, variants / "one"))


@pytest.mark.parametrize("key", ["model__layers__2__eh_proj__weight", "mtp__layers__0__mlp__up_proj__weight"])
def test_layers_that_are_stored_beyond_the_number_of_layers_are_told(copied, variants, key):
    name = key.replace("__", ".")
    base = copied("base", "base", **{key: torch.ones(4, 4)})
    expert = copied("expert", **{key: torch.ones(4, 4)})
    for models in ((base, expert), (base, variants / "one")):  # fine-tuning often loses them
        names, notes = planned(recipe(*models))
        assert name not in names
        assert notes[0] == f"{base}: left out, beyond its 2 layers: {name}"
        assert len(notes) == len({folder for folder in models if folder in (base, expert)})


def test_slices_leave_layers_out_on_purpose(copied, variants):
    extra = copied("extra", model__layers__0__extra__weight=torch.ones(2))

    def slices(*ranges, model=extra):
        return [{"sources": [{"model": str(model), "layer_range": list(one)}]} for one in ranges]

    passthrough = {"merge_method": "passthrough"}
    names, notes = planned({**passthrough, "slices": slices((1, 2), model=variants / "one")})
    assert not notes and any(".layers.0." in name for name in names)
    based = {**passthrough, "base_model": str(variants / "base")}
    _, notes = planned({**based, "slices": slices((1, 2))})
    assert not notes  # the tensor that it has besides is in a layer that is not taken
    _, notes = planned({**based, "slices": slices((0, 1))})
    assert notes == (f"{extra}: left out, not in {variants / 'base'}: model.layers.0.extra.weight",)
    with pytest.raises(MergeError, match="has no layer 2; it has 2"):
        planned({**passthrough, "slices": slices((1, 3))})


def test_a_stack_of_layers_that_its_configuration_does_not_describe_is_refused(variants, tiny_model):
    biased = tiny_model(tie_word_embeddings=False, attention_bias=True)
    one = {"sources": [{"model": str(variants / "one"), "layer_range": [0, 1]}]}
    other = {"sources": [{"model": str(biased), "layer_range": [0, 1]}]}
    with pytest.raises(MergeError, match=r"layer 1 of the output has .*q_proj\.bias.* besides"):
        planned({"merge_method": "passthrough", "slices": [one, other]})
    with pytest.raises(MergeError, match=r"layer 1 of the output lacks .*q_proj\.bias"):
        planned({"merge_method": "passthrough", "slices": [other, one]})


def test_what_models_compute_is_neither_written_nor_missed(copied, variants):
    """Old checkpoints hold rotary tables and causal masks, those that are saved today do not."""
    computed = {
        "model__layers__0__self_attn__rotary_emb__inv_freq": torch.ones(4),
        "model__layers__0__attention__bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "model__layers__0__attention__masked_bias": torch.tensor(-1e9),
    }
    old = copied("old", "base", **computed)
    for models in ((old, variants / "one"), (variants / "base", old)):
        names, notes = planned(recipe(*models))
        assert names == set(load_file(variants / "one/model.safetensors")) and not notes
    own = copied("own", "base", model__layers__0__attention__bias=torch.ones(8))
    with pytest.raises(MergeError, match=r"lacks the tensor model\.layers\.0\.attention\.bias"):
        planned(recipe(own, variants / "one"))


def test_a_tower_of_another_sense_keeps_all_its_layers(copied, tmp_path):
    tower = {f"vision_tower__encoder__layers__{number}__fc__weight": torch.ones(2, 2) for number in range(4)}
    base, one = copied("base", "base", **tower), copied("expert", **tower)
    report = merge_checkpoints(recipe(base, one), tmp_path / "out").report
    assert report is not None and not report.warnings
    merged = load_file(tmp_path / "out/model.safetensors")
    assert {key.replace("__", ".") for key in tower} <= set(merged)


def test_gpt2_is_tied_though_its_configuration_does_not_say_so(tiny_model, tmp_path):
    """Its base may store the output layer besides, and its experts not."""
    from transformers import AutoModelForCausalLM

    base, one = (tiny_model("gpt2", seed=seed) for seed in (0, 1))
    for folder in (base, one):
        config = json.loads((folder / "config.json").read_text())
        config.pop("tie_word_embeddings")
        (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for place, models in enumerate(((base, one), (one, base))):
        out = tmp_path / f"out-{place}"
        report = merge_checkpoints(recipe(*models), out).report
        assert report is not None and not report.warnings
        assert "lm_head.weight" not in load_file(out / "model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(out)
        assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
