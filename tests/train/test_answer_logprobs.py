"""Log-probabilities in chunks are those of a log-softmax over everything, with its gradients."""

import pytest
import torch

from trivet.train import answer_logprobs as module
from trivet.train.answer_logprobs import answer_logprobs


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_equals_log_softmax(monkeypatch: pytest.MonkeyPatch, rows: int, bias: bool, frozen: bool) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows * 50)
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, dtype=torch.float64).float().requires_grad_()
    weight = torch.randn(50, 8).requires_grad_(not frozen)
    shift = torch.randn(50).requires_grad_(not frozen) if bias else None
    tokens = torch.randint(50, (23,))
    upstream = torch.randn(23)
    inputs = [part for part in (hidden, weight, shift) if part is not None and part.requires_grad]
    found = answer_logprobs(hidden, weight, shift, tokens)
    expected = torch.nn.functional.linear(hidden, weight, shift).log_softmax(-1)
    expected = expected.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad((found * upstream).sum(), inputs)
    wanted = torch.autograd.grad((expected * upstream).sum(), inputs)
    for one, two in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4 * 30)
    seen = []
    plain = module._logits

    def watched(hidden: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(len(hidden))
        return plain(hidden, *rest)

    monkeypatch.setattr(module, "_logits", watched)
    hidden = torch.randn(10, 5, requires_grad=True)
    answer_logprobs(hidden, torch.randn(30, 5), None, torch.arange(10)).sum().backward()
    assert seen == [4, 4, 2, 4, 4, 2]
