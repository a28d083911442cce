#!/bin/sh
# Installs torch at the pinned version: the CPU build where no NVIDIA GPU is found and PyTorch's CPU index
# answers, otherwise whatever the configured index serves for that version.
set -eu
python=$1
version=$(sed -n 's/^torch==//p' constraints.txt)
if "$python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$version')" 2>/dev/null; then
    exit 0
fi
index=https://download.pytorch.org/whl/cpu
if ! command -v nvidia-smi >/dev/null 2>&1 && "$python" - "$index" <<'PROBE'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5)
except Exception:
    sys.exit(1)
PROBE
then
    exec "$python" -m pip --disable-pip-version-check install --quiet --index-url "$index" "torch==$version"
fi
exec "$python" -m pip --disable-pip-version-check install --quiet "torch==$version"
