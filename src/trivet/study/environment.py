"""What a study ran on: versions, machine, engines."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from trivet.study.address import package_versions
from trivet.study.results import Environment

if TYPE_CHECKING:
    from trivet.study.opening import Study


def environment_of(study: "Study") -> Environment:
    """Versions of packages, the machine, and what the systems' engines have in common."""
    engines = [system.facts["engine"] for system in study.systems.values() if "engine" in system.facts]
    return Environment(
        versions=package_versions(),
        machine=machine(),
        engine=_common(engines, "engine"),
        device=_common(engines, "device"),
        dtype=_common(engines, "dtype"),
    )


def machine() -> dict[str, Any]:
    """Processor, cores, memory, operating system and GPU, as far as known; no name and no address of it."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }
    import torch

    if torch.cuda.is_available():
        facts["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _common(engines: list[dict[str, Any]], key: str) -> str | None:
    values = sorted({str(engine[key]) for engine in engines if key in engine})
    return ", ".join(values) or None
