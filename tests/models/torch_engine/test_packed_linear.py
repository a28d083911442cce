"""Packed linear layers give what plain ones give, and only plain float32 layers on a CPU are packed."""

import pytest
import torch

from trivet.models.torch_engine.packed_linear import PackedLinear, pack_linear_layers

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN is not built in")


@pytest.mark.parametrize("rows", [1, 3, 32, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 5), (64, 96)])
def test_the_product_is_that_of_the_plain_layer(rows, bias, inputs, outputs):
    generator = torch.Generator().manual_seed(rows)
    linear = torch.nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(2, rows, inputs, generator=generator)
    with torch.inference_mode():
        exact = torch.nn.functional.linear(
            x.double(), linear.weight.double(), linear.bias.double() if bias else None
        )
        torch.testing.assert_close(PackedLinear(linear)(x).double(), exact, rtol=1e-5, atol=1e-5)


def test_no_rows_give_no_rows():
    with torch.inference_mode():
        assert PackedLinear(torch.nn.Linear(4, 3))(torch.empty(1, 0, 4)).shape == (1, 0, 3)


def test_other_layers_stay_as_they_are():
    class Scaled(torch.nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    model = torch.nn.ModuleDict(
        {
            "plain": torch.nn.Linear(4, 4),
            "scaled": Scaled(4, 4),
            "narrow": torch.nn.Linear(4, 4, dtype=torch.bfloat16),
            "nested": torch.nn.Sequential(torch.nn.Linear(4, 4)),
        }
    )
    pack_linear_layers(model)
    assert {name for name, part in model.named_modules() if isinstance(part, PackedLinear)} == {
        "plain",
        "nested.0",
    }


def test_a_tied_embedding_keeps_its_rows(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder).eval()
    model.lm_head.weight = model.get_input_embeddings().weight
    before = model.get_input_embeddings().weight.clone()
    tokens = torch.tensor([[1, 5, 9]])
    with torch.inference_mode():
        expected = model(tokens).logits
        pack_linear_layers(model)
        torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.get_input_embeddings().weight, before)
