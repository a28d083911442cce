"""Trivet's decoding methods in plain transformers: ``model.generate(..., custom_generate=…)``."""

from trivet.systems.custom_generate.adapter import CustomGenerate, CustomGenerateOutput

__all__ = ["CustomGenerate", "CustomGenerateOutput"]
