#!/usr/bin/env bash
# make test-mosaic: compares live with mosaicml-streaming, in an environment of its own (.venv-mosaic, made once).
#
# That package pins numpy<2.2 and transformers<5, and names torchvision, which has no build for the CPU torch: hence
# `--no-deps`, its dependencies that `import streaming` really needs in requirements.txt, and a stand-in for the two
# names it takes from torchvision in stubs/. Cloud clients are left out: nothing here leaves the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=.venv-mosaic
recipe=tests/mosaic/requirements.txt
stamp=$(cat tests/mosaic/run.sh "$recipe" pyproject.toml | sha256sum)

if [[ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]]; then
  [[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
  install=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install)
  "${install[@]}" torch==2.13.0 'numpy<2.2' # first and alone, so that nothing else picks another build
  "${install[@]}" --constraint "$recipe" --requirement "$recipe" --editable .
  "${install[@]}" --no-deps 'mosaicml-streaming==0.13.*'
  echo "$stamp" >"$venv/ready"
fi

export PYTHONPATH="tests/mosaic/stubs${PYTHONPATH:+:$PYTHONPATH}"
# Their package leaves files open and warns of it; that ours warns of nothing, the main suite checks.
exec "$venv/bin/python" -m pytest tests/mosaic -m mosaic -W ignore "$@"
