"""The PyTorch engine: continuous batching and one KV tree over any decoder model of transformers."""

from trivet.models.torch_engine.engine import TorchEngine

__all__ = ["TorchEngine"]
