#!/usr/bin/env bash
# make test-trainers: trains with torchtitan, Composer, LLM Foundry and TRL, in an environment of its own
# (.venv-trainers, made once).
#
# Composer and LLM Foundry pin torch<2.7.1 and name torchvision, which has no build for the CPU torch: hence `--no-deps`,
# what their imports really need in requirements.txt, and a stand-in for torchvision in stubs/, which only the programs
# that import Composer see (transformers, which TRL runs on, would take it for the real one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=.venv-trainers
recipe=tests/trainers/requirements.txt
stamp=$(cat tests/trainers/run.sh "$recipe" pyproject.toml | sha256sum)

if [[ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]]; then
  [[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
  install=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install)
  "${install[@]}" torch==2.13.0 # first and alone, so that nothing else picks another build
  "${install[@]}" --requirement "$recipe" --editable .
  "${install[@]}" --no-deps mosaicml==0.32.1 llm-foundry==0.22.0
  echo "$stamp" >"$venv/ready"
fi

# These packages leave files open and warn of it; that ours warns of nothing, the main suite checks.
exec "$venv/bin/python" -m pytest tests/trainers -m trainers -W ignore "$@"
