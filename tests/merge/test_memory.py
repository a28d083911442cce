"""Check 11: a merge's memory does not follow the size of the models."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.conftest import make_tiny_model
from tests.merge.conftest import change

SCRIPT = """
import re, sys
from pathlib import Path
from trivet.merge import merge_checkpoints
merge_checkpoints(Path(sys.argv[1]), Path(sys.argv[2]), threads=1)
# Not ru_maxrss, which begins with the peak of the process that started this one.
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


def peak(folder: Path, rows: int, method: str, parameters: dict[str, float]) -> int:
    """Peak memory in bytes of a process that merges three models with an embedding of ``rows`` rows."""
    for seed, name in enumerate(("base", "one", "two")):
        if not (folder / name).is_dir():
            make_tiny_model(folder / name, vocab_size=rows)
            if seed:
                change(folder / name, seed=seed)
    models = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in ("one", "two")]
    recipe = folder / f"{method}.yaml"
    content = {"merge_method": method, "base_model": str(folder / "base"), "models": models}
    recipe.write_text(yaml.safe_dump({**content, "parameters": parameters}))
    command = [sys.executable, "-c", SCRIPT, str(recipe), str(folder / f"out-{method}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parameters"),
    [("task_arithmetic", {}), ("ties", {"density": 0.4}), ("dare_ties", {"density": 0.5})],
)
def test_peak_memory_is_that_of_blocks(tmp_path, method, parameters):
    small = peak(tmp_path / "small", 100_000, method, parameters)
    rows = 1_600_000
    large = peak(tmp_path / "large", rows, method, parameters)
    tensor = (tmp_path / "large/base/model.safetensors").stat().st_size
    assert tensor > 150e6
    # What is read once however often a method looks at it (48 MB) is all that may come on top.
    assert large - small < 64e6, (small, large, tensor)
