#!/usr/bin/env bash
# bench/convert.py with its peers, in an environment of its own (.venv-convert, made once):
#
#     bench/convert.sh [--mb 16] [--threads 1] [--tokenizer PATH]…
#
# mosaicml-streaming pins numpy<2.2 and names torchvision, which has no build for the CPU torch: hence `--no-deps`, and
# the stand-in of tests/mosaic/stubs. A package that cannot be installed is left out, and the bench skips it by name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-convert
stamp=$(cat bench/convert.sh tests/mosaic/requirements.txt pyproject.toml | sha256sum)

if [[ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]]; then
  [[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
  install=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install)
  "${install[@]}" torch==2.13.0 'numpy<2.2' # first and alone, so that nothing else picks another build
  "${install[@]}" --constraint tests/mosaic/requirements.txt --requirement tests/mosaic/requirements.txt \
    --editable '.[tokenizers,sentencepiece,tiktoken]'
  "${install[@]}" 'numpy<2.2' datasets transformers || echo "datasets: not installed"
  "${install[@]}" 'numpy<2.2' 'datatrove>=0.6' orjson || echo "datatrove: not installed"
  "${install[@]}" 'numpy<2.2' torch==2.13.0 litdata || echo "litdata: not installed"
  "${install[@]}" --no-deps 'mosaicml-streaming==0.13.*' || echo "mosaicml-streaming: not installed"
  echo "$stamp" >"$venv/ready"
fi

export PYTHONPATH="tests/mosaic/stubs${PYTHONPATH:+:$PYTHONPATH}"
exec "$venv/bin/python" -W ignore bench/convert.py "$@"
