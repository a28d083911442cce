"""Merging: ``trivet merge`` against ``mergekit-yaml`` 0.1.5 as whole processes, start-up included.

A base and three variants of the embedded model in bfloat16. Both write a checkpoint from the same recipe; the
outputs are compared first (with ``dtype: float32`` and ``out_dtype: bfloat16``: at most one step of bfloat16
apart, but for ties at a trimming threshold). Runs go A B B A, and a figure is the mean of its runs. Memory is
the peak of the process; it is measured again on a model four times as large. The linear family is held
against the time that reading and writing as many bytes takes. TSVM stands against the textbook's full
singular value decompositions on the same tensors, embeddings left out of both.

``--methods linear,ties`` runs some; ``--once`` only A B; ``--parts processes,memory,limit,spectral`` chooses.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks.common import report
from safetensors.torch import load_file, save_file

VARIANTS = ("helpful", "honest", "harmless")
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.5},
    "dare_ties": {"density": 0.5},
    "della": {"density": 0.5},
    "breadcrumbs": {"density": 0.5},
}
TRIMMING = {"ties", "breadcrumbs"}
RANDOM = {"dare_ties", "della"}  # tests/parity compares their parts in distribution
FAST, FASTER = ("linear", "task_arithmetic"), ("ties", "dare_ties", "della", "breadcrumbs")
LIMITS = {
    **{f"times_mergekit_{method}": (4.0, "at least") for method in FAST},
    **{f"times_mergekit_{method}": (10.0, "at least") for method in FASTER},
    "peak_memory_share": (1 / 3, "at most"),
    "peak_memory_growth": (1.1, "at most"),
    "times_the_limit": (2.5, "at most"),
    "times_full_svd": (1.5, "at least"),
    "times_full_svd_adapters": (10.0, "at least"),
}


def make_models(root: Path) -> None:
    """The base and its variants, and a base with variants four times as large."""
    from trivet.models import embedded

    source = embedded.folder()
    if source is None:
        sys.exit("the embedded model is not there; run: trivet models pull smollm2-135m-instruct")
    tensors = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("base", *VARIANTS):
        changed = {
            key: value
            if name == "base"
            else value + 0.02 * value.std() * torch.randn(value.shape, generator=generator)
            for key, value in tensors.items()
        }
        _save(changed, source, root / name, {})
        wide = {key: _wider(value) for key, value in changed.items()}
        _save(wide, source, root / f"large-{name}", {"hidden_size": 1152, "intermediate_size": 3072})


def _wider(value: torch.Tensor) -> torch.Tensor:
    """Twice as wide in every dimension but the vocabulary, which is doubled by its rows' count alone."""
    return value.repeat(*([2] * value.dim()))


def _save(tensors: dict[str, torch.Tensor], source: Path, folder: Path, changes: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in {".json", ".jinja", ".txt"}:
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    if changes:
        changes = {**changes, "vocab_size": 2 * config["vocab_size"], "num_attention_heads": 18}
        changes |= {"num_key_value_heads": 6}
    (folder / "config.json").write_text(json.dumps({**config, **changes, "dtype": "bfloat16"}))
    narrow = {key: value.to(torch.bfloat16).contiguous() for key, value in tensors.items()}
    save_file(narrow, folder / "model.safetensors", metadata={"format": "pt"})


def recipe(root: Path, method: str, prefix: str = "") -> Path:
    """Write the recipe of a method."""
    weighted = [
        {"model": str(root / f"{prefix}{name}"), "parameters": {"weight": 0.4, **METHODS.get(method, {})}}
        for name in VARIANTS
    ]
    values: dict[str, Any] = {
        "merge_method": method,
        "models": weighted,
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    if method != "linear":
        values["base_model"] = str(root / f"{prefix}base")
    path = root / f"{prefix}{method}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(system: str, path: Path, out: Path) -> tuple[float, int]:
    """Seconds and peak memory (bytes) of one process that merges."""
    shutil.rmtree(out, ignore_errors=True)
    program = Path(sys.executable).with_name("trivet" if system == "trivet" else "mergekit-yaml")
    words = (
        [str(program), "merge", str(path), str(out)]
        if system == "trivet"
        else [str(program), str(path), str(out)]
    )
    # A process of its own in between: a child's peak memory begins with that of the one that started it.
    script = (
        "import json, resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors='replace')\n"
        "seconds = time.perf_counter() - started\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n"
        "print(json.dumps([done.returncode, seconds, peak, done.stderr[-800:]]))\n"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", script, *words], check=True, capture_output=True, text=True
    )
    code, seconds, peak, errors = json.loads(said.stdout)
    if code:
        sys.exit(f"{system} failed on {path.name}: {errors}")
    return seconds, peak


def differing(root: Path, method: str) -> tuple[int, int, int]:
    """How many numbers are more than one step of bfloat16 apart; how many of them are not at a place where an
    expert's magnitude ties at its trimming threshold; and how many numbers there are."""
    ours, theirs = (load_file(root / f"out-{name}" / "model.safetensors") for name in ("trivet", "mergekit"))
    if set(ours) != set(theirs):
        sys.exit(f"the outputs hold different tensors: {sorted(set(ours) ^ set(theirs))[:3]}")
    models = [load_file(root / name / "model.safetensors") for name in ("base", *VARIANTS)]
    apart, unexplained, total = 0, 0, 0
    for name, value in ours.items():
        gap = (value.view(torch.int16).int() - theirs[name].view(torch.int16).int()).abs() > 1
        apart += int(gap.sum())
        total += value.numel()
        if gap.any() and method in TRIMMING:
            gap &= ~_tied([model[name].float() for model in models], method)
        unexplained += int(gap.sum())
    return apart, unexplained, total


def _tied(models: list[torch.Tensor], method: str) -> torch.Tensor:
    """Where the magnitude of some expert's task vector is that of a threshold."""
    from trivet.merge._group import MemoryGroup
    from trivet.merge._outliers import masked_counts
    from trivet.merge._select import largest
    from trivet.merge._trim import kept_count

    base, *experts = models
    count, density = base.numel(), float(METHODS[method]["density"])
    dropped, kept = (
        masked_counts(count, density, 0.01) if method == "breadcrumbs" else (0, kept_count(density, count))
    )
    ranks = [rank for rank in (dropped, dropped + kept) if 0 < rank < count]
    group = MemoryGroup(experts, base)
    found = largest(lambda: iter([group]), [ranks] * len(experts))
    tied = torch.zeros(base.shape, dtype=torch.bool)
    for expert, thresholds in zip(experts, found):
        for threshold in thresholds:
            tied |= (expert - base).abs() == threshold.value
    return tied


def processes(root: Path, methods: list[str], *, once: bool) -> dict[str, Any]:
    """Whole processes, alternating."""
    figures: dict[str, Any] = {}
    shares = []
    for method in methods:
        path = recipe(root, method)
        order = ["trivet", "mergekit"] if once else ["trivet", "mergekit", "mergekit", "trivet"]
        seconds: dict[str, list[float]] = {"trivet": [], "mergekit": []}
        memory: dict[str, list[int]] = {"trivet": [], "mergekit": []}
        for system in order:
            took, peak = run(system, path, root / f"out-{system}")
            seconds[system].append(took)
            memory[system].append(peak)
        apart, unexplained, total = differing(root, method)
        if method not in RANDOM and unexplained > total * 1e-5:
            sys.exit(
                f"{method}: {unexplained} of {total} numbers differ by more than one step and are no ties"
            )
        mean = {system: sum(values) / len(values) for system, values in seconds.items()}
        share = max(memory["trivet"]) / max(memory["mergekit"])
        shares.append(share)
        figures |= {
            f"seconds_{method}": {system: round(value, 2) for system, value in mean.items()},
            f"times_mergekit_{method}": round(mean["mergekit"] / mean["trivet"], 2),
            f"megabytes_{method}": {system: round(max(peaks) / 1e6) for system, peaks in memory.items()},
        }
        if method not in RANDOM:
            figures[f"apart_{method}"] = {"all": apart, "no_ties": unexplained}
        print(
            f"{method:16} trivet {mean['trivet']:6.2f} s  mergekit {mean['mergekit']:6.2f} s  "
            f"{mean['mergekit'] / mean['trivet']:5.1f} x  memory {share:.2f} of mergekit's"
            + (
                ""
                if method in RANDOM
                else f"  ({apart:,} of {total:,} more than one step apart, {unexplained} of them no ties)"
            ),
            flush=True,
        )
    figures["peak_memory_share"] = round(max(shares), 3)
    return figures


def memory(root: Path) -> dict[str, Any]:
    """Peak memory for a model four times as large, over that for the model itself."""
    growth: dict[str, float] = {}
    for method in ("task_arithmetic", "ties", "della"):
        _, small = run("trivet", recipe(root, method), root / "out-trivet")
        _, large = run("trivet", recipe(root, method, "large-"), root / "out-large")
        growth[method] = large / small
        print(f"{method:16} {small / 1e6:.0f} MB, four times as large {large / 1e6:.0f} MB", flush=True)
    return {
        "peak_memory_growth": round(max(growth.values()), 3),
        "growth": {name: round(value, 3) for name, value in growth.items()},
    }


def limit(root: Path) -> dict[str, Any]:
    """The linear family's merge itself, over reading and writing its bytes with nothing in between."""
    from trivet.merge.checkpoint import open_merge
    from trivet.merge.executor import run as run_merge

    path = recipe(root, "linear")
    files = [root / name / "model.safetensors" for name in VARIANTS]
    times: dict[str, list[float]] = {"copy": [], "merge": []}
    for _ in range(3):
        times["copy"].append(_copy(files, root / "copy"))
        merge, _text = open_merge(path)
        shutil.rmtree(root / "staged", ignore_errors=True)
        started = time.perf_counter()
        run_merge(merge, root / "staged")
        times["merge"].append(time.perf_counter() - started)
        merge.sources.close()
    read = sum(file.stat().st_size for file in files)
    written = files[0].stat().st_size
    best = {name: min(values) for name, values in times.items()}
    print(
        f"linear: {best['merge']:.2f} s; reading {read / 1e9:.2f} GB and writing {written / 1e9:.2f} GB "
        f"alone takes {best['copy']:.2f} s"
    )
    return {
        "times_the_limit": round(best["merge"] / best["copy"], 2),
        "limit_seconds": {name: round(value, 2) for name, value in best.items()},
    }


def _copy(files: list[Path], target: Path) -> float:
    """Seconds to read all files and to write one of them to disk, by two threads with large buffers."""
    from concurrent.futures import ThreadPoolExecutor

    piece = 4 * 2**20
    started = time.perf_counter()
    size = files[0].stat().st_size
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(descriptor, 0, size)
    readers = [os.open(file, os.O_RDONLY) for file in files]

    def one(at: int) -> None:
        buffers = [os.pread(reader, piece, at) for reader in readers]
        os.pwrite(descriptor, buffers[0], at)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(0, size, piece)))
    os.fsync(descriptor)
    for opened in (*readers, descriptor):
        os.close(opened)
    return time.perf_counter() - started


def textbook(deltas: list[torch.Tensor]) -> torch.Tensor:
    """TSVM as its paper writes it: a full decomposition of each task vector, and of both stacks."""
    rank = min(deltas[0].shape) // len(deltas)
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = torch.cat([u[:, :rank] for u, _, _ in parts], 1)
    values = torch.cat([s[:rank] for _, s, _ in parts])
    right = torch.cat([v[:rank] for _, _, v in parts])
    u, _, v = torch.linalg.svd(left, full_matrices=False)
    p, _, q = torch.linalg.svd(right, full_matrices=False)
    merged: torch.Tensor = (u @ v) * values @ (p @ q)
    return merged


def spectral(root: Path) -> dict[str, Any]:
    """All two-dimensional tensors of two layers, full-rank and as adapters."""
    from trivet.merge._group import MemoryGroup
    from trivet.merge.tsvm import Config, merge

    models = [load_file(root / name / "model.safetensors") for name in ("base", *VARIANTS)]
    names = [
        name
        for name in models[0]
        if any(f".layers.{n}." in name for n in (3, 17)) and models[0][name].dim() == 2
    ]
    seconds = {"textbook": 0.0, "trivet": 0.0, "adapters": 0.0, "textbook_adapters": 0.0}
    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for name in names:
        base, *experts = (model[name].float() for model in models)
        deltas = [expert - base for expert in experts]
        started = time.perf_counter()
        expected = textbook(deltas)
        seconds["textbook"] += time.perf_counter() - started
        group = MemoryGroup(experts, base, name=name)
        started = time.perf_counter()
        merged = group.merged(merge(Config.model_validate({}), group)) - base
        seconds["trivet"] += time.perf_counter() - started
        spectra = [torch.linalg.svdvals(value.double()) for value in (expected, merged)]
        worst = max(worst, float((spectra[0] - spectra[1]).abs().max() / spectra[0].max()))
        pairs = [
            (
                torch.randn(base.shape[0], 4, generator=generator),
                torch.randn(4, base.shape[1], generator=generator),
            )
            for _ in experts
        ]
        thin = [base + 0.01 * up @ down for up, down in pairs]
        group = MemoryGroup(thin, base, name=name, factors=[(0.01 * up, down) for up, down in pairs])
        started = time.perf_counter()
        textbook([one - base for one in thin])
        seconds["textbook_adapters"] += time.perf_counter() - started
        started = time.perf_counter()
        group.merged(merge(Config.model_validate({}), group))
        seconds["adapters"] += time.perf_counter() - started
    print(
        f"TSVM on {len(names)} matrices: "
        + ", ".join(f"{key} {value:.2f} s" for key, value in seconds.items())
    )
    return {
        "times_full_svd": round(seconds["textbook"] / seconds["trivet"], 2),
        "times_full_svd_adapters": round(seconds["textbook_adapters"] / seconds["adapters"], 1),
        "spectrum_error": float(f"{worst:.2g}"),
    }


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks merge", description=__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--parts", default="processes,memory,limit,spectral")
    parser.add_argument("--once", action="store_true")
    chosen = parser.parse_args(arguments)
    parts = chosen.parts.split(",")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="trivet-merge-") as folder:
        root = Path(folder)
        make_models(root)
        if "processes" in parts:
            figures |= processes(root, chosen.methods.split(","), once=chosen.once)
        if "memory" in parts:
            figures |= memory(root)
        if "limit" in parts:
            figures |= limit(root)
        if "spectral" in parts:
            figures |= spectral(root)
    report("merge", figures, LIMITS)
