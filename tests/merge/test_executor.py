"""Merges of whole checkpoints: streamed equals in memory, kills leave nothing that loads."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.merge.conftest import make_adapter

from trivet.errors import ConfigError, MergeError, ModelError
from trivet.merge import merge_checkpoints, merge_tensors, stream
from trivet.merge.staging import STATE, staging_folder

METHODS = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.5},
    "dare_ties": {"density": 0.5, "rescale": "inverse_keep_prob"},
    "della": {"density": 0.5},
    "breadcrumbs": {"density": 0.5, "gamma": 0.1},
    "model_stock": {},
    "tsvm": {},
}


def tensors_of(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kept", [0, stream.KEPT_BYTES], ids=["read again", "kept"])
def test_streamed_equals_in_memory_bit_by_bit(write_recipe, variants, tmp_path, monkeypatch, method, kept):
    monkeypatch.setattr(stream, "KEPT_BYTES", kept)
    monkeypatch.setattr(stream.StreamGroup.__init__, "__kwdefaults__", {"block_elements": 100})
    recipe = write_recipe(merge_method=method, parameters=METHODS[method], seed=7)
    merge_checkpoints(recipe, tmp_path / "out", shard_bytes=60_000)
    merged = tensors_of(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    models = [load_file(variants / name / "model.safetensors") for name in ("base", "one", "two", "three")]
    assert set(merged) == set(models[0])
    for name, value in merged.items():
        experts = [model[name] for model in models[1:]]
        settings = dict(METHODS[method])
        if method != "model_stock" and method != "tsvm":
            settings["weight"] = [0.5, 0.3, 0.2]
        expected = merge_tensors(method, experts, models[0][name], name=name, seed=7, **settings)
        assert torch.equal(value, expected), name


def test_a_one_hot_soup_is_that_expert_and_answers_as_it(variants, write_recipe, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models = [
        {"model": str(variants / name), "parameters": {"weight": weight}}
        for name, weight in (("one", 0.0), ("two", 1.0))
    ]
    recipe = write_recipe(merge_method="rewarded_soup", base_model=..., models=models)
    merge_checkpoints(recipe, tmp_path / "out")
    expert = load_file(variants / "two/model.safetensors")
    assert all(torch.equal(value, expert[name]) for name, value in tensors_of(tmp_path / "out").items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer("What is the capital of France?", return_tensors="pt")
    texts = [
        AutoModelForCausalLM.from_pretrained(folder).generate(**inputs, max_new_tokens=12, do_sample=False)
        for folder in (tmp_path / "out", variants / "two")
    ]
    assert torch.equal(*texts)


def test_types_are_rounded_once(write_recipe, variants, tmp_path):
    merge_checkpoints(write_recipe(dtype="float32", out_dtype="bfloat16"), tmp_path / "narrow")
    merge_checkpoints(write_recipe(), tmp_path / "wide")
    wide = tensors_of(tmp_path / "wide")
    for name, value in tensors_of(tmp_path / "narrow").items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, wide[name].to(torch.bfloat16))
    assert json.loads((tmp_path / "narrow/config.json").read_text())["dtype"] == "bfloat16"


def test_tied_weights_stay_tied(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    base, expert = (tiny_model(tie_word_embeddings=True, seed=seed) for seed in (0, 1))
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(base)}, {"model": str(expert)}],
    }
    merge_checkpoints(recipe, tmp_path / "out")
    assert "lm_head.weight" not in tensors_of(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_adapters_are_experts_of_the_base(variants, tmp_path):
    folder = make_adapter(variants / "base", tmp_path / "adapter")
    base = load_file(variants / "base/model.safetensors")
    for model in (str(folder), f"{variants / 'base'}+{folder}"):
        out = tmp_path / f"out-{'+' in model}"
        recipe = {
            "merge_method": "task_arithmetic",
            "base_model": str(variants / "base"),
            "models": [{"model": model, "parameters": {"weight": 0.5}}],
        }
        merge_checkpoints(recipe, out)
        merged = tensors_of(out)
        changed = [name for name in base if not torch.equal(base[name], merged[name])]
        assert {name.split(".")[-2] for name in changed} == {"q_proj", "down_proj"} and len(changed) == 4
    assert all(
        torch.equal(value, tensors_of(tmp_path / "out-True")[name])
        for name, value in tensors_of(tmp_path / "out-False").items()
    )


def test_layers_are_stacked_by_slices(variants, tmp_path):
    from transformers import AutoModelForCausalLM

    slices = [
        {"sources": [{"model": str(variants / "one"), "layer_range": [0, 2]}]},
        {"sources": [{"model": str(variants / "two"), "layer_range": [1, 2], "parameters": {"scale": 0.5}}]},
    ]
    merge_checkpoints({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    one, two = (load_file(variants / name / "model.safetensors") for name in ("one", "two"))
    merged = tensors_of(tmp_path / "out")
    for name, value in merged.items():
        if ".layers.2." in name:
            assert torch.equal(value, two[name.replace("layers.2", "layers.1")] * 0.5)
        elif name in ("model.norm.weight", "lm_head.weight"):  # after the layers: from the last slice
            assert torch.equal(value, two[name] * 0.5)
        else:
            assert torch.equal(value, one[name])
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers) == 3


def test_parameters_may_differ_by_layer_and_by_name(write_recipe, variants, tmp_path):
    models = [{"model": str(variants / "one"), "parameters": {"weight": [0.0, 1.0]}}]
    recipe = write_recipe(
        models=models, parameters={"lambda": [{"filter": "mlp", "value": 2.0}, {"value": 1.0}]}
    )
    merge_checkpoints(recipe, tmp_path / "out")
    base, one = (load_file(variants / name / "model.safetensors") for name in ("base", "one"))
    for name, value in tensors_of(tmp_path / "out").items():
        depth = 1.0 if ".layers.1." in name else 0.0
        scale = 2.0 if "mlp" in name else 1.0
        expected = base[name] + scale * (depth * (one[name] - base[name]))
        assert torch.equal(value, expected)


def test_the_same_again_changes_nothing_and_another_merge_is_refused(write_recipe, tmp_path):
    made = merge_checkpoints(write_recipe(), tmp_path / "out")
    assert made.report is not None and made.report.bytes_written > 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert merge_checkpoints(write_recipe(), tmp_path / "out").report is None
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(MergeError, match="is there already"):
        merge_checkpoints(write_recipe(parameters={"lambda": 0.5}), tmp_path / "out")


def test_the_report_and_the_card_are_there(write_recipe, tmp_path):
    merge_checkpoints(write_recipe(merge_method="ties", parameters={"density": 0.5}), tmp_path / "out")
    report = json.loads((tmp_path / "out/merge_report.json").read_text())
    first = report["tensors"][0]
    assert first["density"] == pytest.approx([0.5] * 3, abs=0.01)
    assert 0 < first["conflicts"] < 1 and len(first["cosines"]) == 3
    assert "merge_method: ties" in (tmp_path / "out/README.md").read_text()
    assert "<html" in (tmp_path / "out/merge_report.html").read_text()


def test_other_vocabularies_need_a_rule(variants, tiny_model, tmp_path):
    other = tiny_model(tie_word_embeddings=False)
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["model"]["vocab"] = {
        {"a": "b", "b": "a"}.get(token, token): number for token, number in settings["model"]["vocab"].items()
    }
    (other / "tokenizer.json").write_text(json.dumps(settings))
    recipe = {"merge_method": "linear", "models": [{"model": str(variants / "base")}, {"model": str(other)}]}
    with pytest.raises(MergeError, match="tokenizer_source"):
        merge_checkpoints(recipe, tmp_path / "out")
    merge_checkpoints({**recipe, "tokenizer_source": "base"}, tmp_path / "out")
    base, second = (load_file(folder / "model.safetensors") for folder in (variants / "base", other))
    vocabulary = json.loads((variants / "base/tokenizer.json").read_text())["model"]["vocab"]
    a, b = vocabulary["a"], vocabulary["b"]
    merged = tensors_of(tmp_path / "out")["model.embed_tokens.weight"]
    key = "model.embed_tokens.weight"
    torch.testing.assert_close(merged[a], (base[key][a] + second[key][b]) / 2)
    torch.testing.assert_close(merged[b], (base[key][b] + second[key][a]) / 2)


def test_models_that_do_not_fit_are_named(write_recipe, variants, tiny_model, tmp_path):
    wide = tiny_model(hidden_size=64)
    with pytest.raises(MergeError, match=r"shape .*64"):
        merge_checkpoints(
            write_recipe(models=[{"model": str(wide), "parameters": {"weight": 1}}]), tmp_path / "o"
        )
    short = tiny_model(num_hidden_layers=1, tie_word_embeddings=False)
    with pytest.raises(MergeError, match=r"has 1 layer, and .* has 2"):
        merge_checkpoints(
            write_recipe(models=[{"model": str(short), "parameters": {"weight": 1}}]), tmp_path / "o"
        )
    with pytest.raises(ConfigError, match=r"weight.* is not given"):
        merge_checkpoints(write_recipe(models=[{"model": str(variants / "one")}]), tmp_path / "o")
    with pytest.raises(ConfigError, match="did you mean 'lambda'"):
        merge_checkpoints(write_recipe(parameters={"lamda": 1}), tmp_path / "o")
    assert not (tmp_path / "o").exists() and not staging_folder(tmp_path / "o").exists()


def test_a_damaged_shard_is_named(write_recipe, variants, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(variants / "one", broken)
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    recipe = write_recipe(models=[{"model": str(broken), "parameters": {"weight": 1}}])
    with pytest.raises(ModelError, match=r"broken/model.safetensors"):
        merge_checkpoints(recipe, tmp_path / "out")


def test_integers_are_copied_where_all_agree(variants, write_recipe, tmp_path):
    import shutil

    folders = []
    for name in ("base", "one"):
        folder = tmp_path / name
        shutil.copytree(variants / name, folder)
        file = folder / "model.safetensors"
        save_file({**load_file(file), "model.buffer": torch.tensor([3, 4])}, file, metadata={"format": "pt"})
        folders.append(folder)
    recipe = write_recipe(
        base_model=str(folders[0]), models=[{"model": str(folders[1]), "parameters": {"weight": 1}}]
    )
    merge_checkpoints(recipe, tmp_path / "out")
    assert tensors_of(tmp_path / "out")["model.buffer"].tolist() == [3, 4]
    file = folders[1] / "model.safetensors"
    save_file({**load_file(file), "model.buffer": torch.tensor([3, 5])}, file, metadata={"format": "pt"})
    with pytest.raises(MergeError, match=r"model\.buffer .* differs"):
        merge_checkpoints(recipe, tmp_path / "other")


@pytest.mark.slow
def test_killed_at_any_instant_nothing_loads_and_the_same_command_goes_on(write_recipe, tmp_path):
    recipe = write_recipe(merge_method="ties", parameters={"density": 0.5})
    merge_checkpoints(recipe, tmp_path / "whole", shard_bytes=20_000)
    expected = tensors_of(tmp_path / "whole")
    script = (
        "import sys; from pathlib import Path; from trivet.merge import merge_checkpoints, stream\n"
        "stream.StreamGroup.__init__.__kwdefaults__['block_elements'] = 40\n"
        "merge_checkpoints(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=20_000, threads=1)\n"
    )
    out, kills = tmp_path / "killed", 0
    draw = random.Random(5)
    while not out.exists():
        process = subprocess.Popen([sys.executable, "-c", script, str(recipe), str(out)], env={**os.environ})
        staging = staging_folder(out)
        while process.poll() is None and not (staging / STATE).exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        if not out.exists():
            # Without it nothing loads; it comes when all else is there, right before the folder moves.
            assert not (staging / "config.json").exists() or (staging / "merge_report.json").exists()
        if kills > 8:
            subprocess.run([sys.executable, "-c", script, str(recipe), str(out)], check=True)
    merged = tensors_of(out)
    assert set(merged) == set(expected)
    assert all(torch.equal(value, expected[name]) for name, value in merged.items())
    assert not staging_folder(out).exists()


def test_finished_shards_are_kept(write_recipe, tmp_path, monkeypatch):
    from trivet.merge import executor

    recipe = write_recipe()
    written: list[str] = []
    real = executor._Work.shard

    def stop_after_two(self, shard, writer, threads):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.file)
        real(self, shard, writer, threads)

    monkeypatch.setattr(executor._Work, "shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        merge_checkpoints(recipe, tmp_path / "out", shard_bytes=20_000)
    first = list(written)
    written.clear()
    monkeypatch.setattr(
        executor._Work,
        "shard",
        lambda self, shard, *rest: (written.append(shard.file), real(self, shard, *rest)),
    )
    made = merge_checkpoints(recipe, tmp_path / "out", shard_bytes=20_000)
    assert first and not set(first) & set(written)
    assert made.report is not None and any("earlier, interrupted" in text for text in made.report.warnings)
    whole = merge_checkpoints(recipe, tmp_path / "whole", shard_bytes=20_000).report
    assert made.report.tensors == whole.tensors  # those of the interrupted run are reported too
    assert not list((tmp_path / "out").glob(".*"))


def test_a_second_writer_is_refused_and_changes_nothing(write_recipe, tmp_path):
    from trivet.merge.staging import only_writer

    with only_writer(tmp_path / "out"), pytest.raises(MergeError, match="another merge is writing it"):
        merge_checkpoints(write_recipe(), tmp_path / "out")
    assert merge_checkpoints(write_recipe(), tmp_path / "out").report is not None
    assert {path.name for path in tmp_path.iterdir()} == {"out", "recipe.yaml"}


def test_shards_cut_at_another_size_are_not_taken_over(write_recipe, tmp_path, monkeypatch):
    from trivet.merge import executor

    recipe = write_recipe()
    real = executor._Work.shard
    calls: list[str] = []

    def stop_after_one(self, shard, writer, threads):
        if calls:
            raise KeyboardInterrupt
        calls.append(shard.file)
        real(self, shard, writer, threads)

    monkeypatch.setattr(executor._Work, "shard", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        merge_checkpoints(recipe, tmp_path / "out", shard_bytes=60_000)
    monkeypatch.setattr(executor._Work, "shard", real)
    made = merge_checkpoints(recipe, tmp_path / "out", shard_bytes=75_000).report
    merge_checkpoints(recipe, tmp_path / "whole")
    assert made is not None and not made.warnings
    merged, whole = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "whole")
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


def test_an_error_in_one_tensor_stops_the_others_at_their_next_block(write_recipe, tmp_path, monkeypatch):
    from trivet.merge import executor

    started: list[str] = []
    real = executor._Work._tensor

    def fail(self, output, writer):
        started.append(output.name)
        if len(started) == 1:
            raise KeyboardInterrupt
        real(self, output, writer)

    monkeypatch.setattr(executor._Work, "_tensor", fail)
    with pytest.raises(KeyboardInterrupt):
        merge_checkpoints(write_recipe(), tmp_path / "out", threads=1)
    assert len(started) < 5
    assert not list(staging_folder(tmp_path / "out").glob("*.safetensors"))


def test_a_base_beside_slices_takes_no_part(variants, tmp_path):
    sources = [{"model": str(variants / name), "layer_range": [0, 2]} for name in ("one", "two")]
    recipe = {
        "merge_method": "linear",
        "base_model": str(variants / "base"),
        "slices": [{"sources": sources}],
        "parameters": {"weight": 1.0},
    }
    merge_checkpoints(recipe, tmp_path / "out")
    one, two = (load_file(variants / name / "model.safetensors") for name in ("one", "two"))
    for name, value in tensors_of(tmp_path / "out").items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    stacked = {
        "merge_method": "passthrough",
        "base_model": str(variants / "base"),
        "slices": [{"sources": sources[:1]}, {"sources": [{**sources[1], "layer_range": [1, 2]}]}],
        "parameters": {"scale": 1.0},
    }
    merge_checkpoints(stacked, tmp_path / "stacked")


def test_a_tied_expert_of_an_untied_base_gives_its_embedding(variants, tiny_model, tmp_path):
    tied = tiny_model(tie_word_embeddings=True, seed=3)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(variants / "base"),
        "models": [{"model": str(tied), "parameters": {"weight": 1.0}}],
    }
    merge_checkpoints(recipe, tmp_path / "out")
    expected = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(tensors_of(tmp_path / "out")["lm_head.weight"], expected)
    turned = {**recipe, "base_model": str(tied), "models": [{"model": str(variants / "base")}]}
    with pytest.raises(MergeError, match="output layer of its own"):
        merge_checkpoints({**turned, "parameters": {"weight": 1.0}}, tmp_path / "other")


def test_an_unchanged_vocabulary_is_streamed(write_recipe, tmp_path, monkeypatch):
    from trivet.merge.groups import Groups

    merge_checkpoints(write_recipe(), tmp_path / "plain")
    monkeypatch.setattr(Groups, "_vocabulary_group", None)
    merge_checkpoints(write_recipe(tokenizer_source="base"), tmp_path / "out")
    plain = tensors_of(tmp_path / "plain")
    assert all(torch.equal(value, plain[name]) for name, value in tensors_of(tmp_path / "out").items())


def test_quantised_weights_are_refused(write_recipe, variants, tmp_path):
    import shutil

    folder = tmp_path / "quantised"
    shutil.copytree(variants / "one", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "fp8"}})
    )
    with pytest.raises(MergeError, match="quantised"):
        merge_checkpoints(
            write_recipe(models=[{"model": str(folder), "parameters": {"weight": 1}}]), tmp_path / "o"
        )


def test_numbers_that_are_none_are_said(write_recipe, variants, tmp_path):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(variants / "one", folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = write_recipe(models=[{"model": str(folder), "parameters": {"weight": 1}}])
    report = merge_checkpoints(recipe, tmp_path / "out").report
    assert report is not None
    warned = {tensor.name: tensor.warnings for tensor in report.tensors if tensor.warnings}
    assert warned == {"model.norm.weight": ["1 merged numbers are infinite or not a number"]}


def test_the_report_gives_each_expert_its_own_numbers(write_recipe, variants, tmp_path):
    from trivet.merge.report import summarise

    models = [
        {"model": str(variants / name), "parameters": {"weight": 1.0}} for name in ("base", "one", "two")
    ]
    report = merge_checkpoints(write_recipe(merge_method="linear", models=models), tmp_path / "out").report
    assert report is not None
    assert [name.rsplit("/", 1)[-1] for name in report.experts] == ["base", "one", "two"]
    norms = summarise(report).relative_norms or []
    assert norms[0] == 0 and norms[1] and norms[2]
    assert summarise(report).density is None  # nothing is trimmed
