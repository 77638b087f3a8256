#!/usr/bin/env bash
# make test-mosaic-suite SUITE=DIRECTORY: mosaicml-streaming's own tests through mixstream.compat, counted by suite.py.
#
# DIRECTORY is a checkout of https://github.com/mosaicml/streaming at v0.13.0; its files stay where they are. The tests
# need that package's clients of clouds, none of which they reach, and pytest 8: hence an environment of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=.venv-mosaic-suite
recipe=tests/mosaic/suite-requirements.txt
stamp=$(cat tests/mosaic/suite.sh tests/mosaic/requirements.txt "$recipe" pyproject.toml | sha256sum)

if [[ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]]; then
  [[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
  install=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install)
  "${install[@]}" torch==2.13.0 'numpy<2.2' # first and alone, so that nothing else picks another build
  "${install[@]}" --requirement "$recipe" --editable .
  "${install[@]}" --no-deps 'mosaicml-streaming==0.13.*'
  echo "$stamp" >"$venv/ready"
fi

exec "$venv/bin/python" tests/mosaic/suite.py "$@"
