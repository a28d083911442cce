"""Names of layers, and configurations of models put together anew."""

import pytest

from trivet.errors import MergeError
from trivet.merge.layers import (
    OUTPUT_LAYER,
    VOCABULARY,
    comes_first,
    count_layers,
    is_computed,
    is_prediction_layer,
    layer_of,
    with_layers,
)


@pytest.mark.parametrize(
    ("name", "number", "moved"),
    [
        ("model.layers.7.mlp.up_proj.weight", 7, "model.layers.2.mlp.up_proj.weight"),
        ("transformer.h.11.attn.c_attn.weight", 11, "transformer.h.2.attn.c_attn.weight"),
        ("model.text.layers.0.input_layernorm.weight", 0, "model.text.layers.2.input_layernorm.weight"),
        ("model.layers.3.moe.experts.5.w1.weight", 3, "model.layers.2.moe.experts.5.w1.weight"),
    ],
)  # fmt: skip
def test_layer_numbers(name, number, moved):
    layer = layer_of(name)
    assert layer is not None and layer.number == number and layer.numbered(2) == moved


def test_what_lies_outside():
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert layer_of(name) is None
    assert comes_first("model.embed_tokens.weight") and comes_first("transformer.wpe.weight")
    assert not comes_first("model.norm.weight") and not comes_first("lm_head.weight")
    assert VOCABULARY.search("model.embed_tokens.weight") and VOCABULARY.search("lm_head.weight")
    assert not VOCABULARY.search("model.layers.0.self_attn.q_proj.weight")


def test_towers_of_other_senses_lie_outside():
    for name in ("vision_tower.encoder.layers.3.fc.weight", "model.visual.blocks.30.attn.qkv.weight"):
        assert layer_of(name) is None
    assert layer_of("model.layers.3.mlp.vision_mlp.up_proj.weight") is not None


def test_which_tensor_is_the_output_layer():
    for name in ("lm_head.weight", "language_model.lm_head.weight", "embed_out.weight"):
        assert OUTPUT_LAYER.search(name) and not comes_first(name)
    for name in ("lm_head.bias", "model.embed_tokens.weight", "transformer.wte.weight"):
        assert not OUTPUT_LAYER.search(name)


def test_what_is_computed_and_what_predicts_several_tokens():
    assert is_computed("gpt_neox.layers.0.attention.bias", (1, 1, 8, 8))
    assert is_computed("h.0.attn.masked_bias", ()) and is_computed("model.rotary_emb.inv_freq", (4,))
    assert not is_computed("model.layers.0.attention.bias", (32,))
    assert is_prediction_layer("mtp.fc.weight") and is_prediction_layer("model.mtp_layers.0.fc.weight")
    assert not is_prediction_layer("model.layers.0.mlp.up_proj.weight")


def test_settings_of_layers_follow_their_layers():
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "eos_token_id": [1, 2, 3]}
    other = {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}
    made = with_layers(config, [(config, 0), (other, 2), (config, 0), (config, 1)], "m")
    assert made["num_hidden_layers"] == 4 and made["layer_types"] == ["a", "z", "a", "b"]
    assert made["eos_token_id"] == [1, 2, 3]
    nested = with_layers({"text_config": config}, [({"text_config": other}, 1)], "m")
    assert nested["text_config"]["num_hidden_layers"] == 1 and nested["text_config"]["layer_types"] == ["y"]


def test_a_configuration_without_a_number_of_layers_is_refused():
    assert count_layers({"text_config": {"num_hidden_layers": 5}}, "m") == 5
    with pytest.raises(MergeError, match="names no number of layers"):
        count_layers({}, "m")
