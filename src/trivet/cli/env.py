"""``trivet env``: versions, machine, device, cache and the embedded model, for a bug report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from trivet.cli._output import console, print_json

_PACKAGES = (
    "trivet",
    "torch",
    "transformers",
    "safetensors",
    "datasets",
    "numpy",
    "scipy",
    "inspect-ai",
    "xllamacpp",
    "trl",
    "peft",
    "ray",
)


@click.command(short_help="Versions, machine, device, cache.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what this installation runs on. No key, token or user name is printed.

    \b
    Example:
      trivet env --json
    """
    facts = environment()
    if as_json:
        print_json(facts)
        return
    out = console()
    for section, values in facts.items():
        out.print(section.replace("_", " "), style="bold")
        width = max(len(key) for key in values)
        for key, value in values.items():
            shown = "absent" if value is None else value
            out.print(f"  {key.replace('_', ' '):<{width}}  {shown}", soft_wrap=True)


def environment() -> dict[str, dict[str, Any]]:
    """The facts as plain JSON values, by section."""
    import psutil
    import torch

    from trivet.models import embedded
    from trivet.models.cache import cache_folder

    packages: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name(0)} (of {torch.cuda.device_count()})"
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = "cpu"
    folder = embedded.folder()
    return {
        "packages": packages,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": psutil.cpu_count(logical=False),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        },
        "torch": {
            "device": device,
            "threads": torch.get_num_threads(),
            "bf16_units": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        },
        "cache": {
            "folder": str(cache_folder()).replace(str(Path.home()), "~"),
            "embedded_model": embedded.NAME if folder else None,
            "source": embedded.source_of(folder).get("source") if folder else None,
        },
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123 - a kernel file
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
