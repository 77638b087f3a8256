#!/usr/bin/env bash
# Makes the environment of one peer, .venv-bench-PEER, and prints its Python:
#
#     bench/peers/env.sh mosaic|litdata|datasets|grain|webdataset|torchdata|lancedb
#
# torch lies once on disk, in .venv-bench-torch, and each environment finds it there by a .pth file, after its own
# packages. mosaicml-streaming pins numpy<2.2 and names torchvision, which has no build for the CPU torch: hence
# `--no-deps`, its requirements in tests/mosaic/requirements.txt, and the stand-in of tests/mosaic/stubs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

peer=$1
case $peer in
  mosaic) packages=(--requirement tests/mosaic/requirements.txt) ;;
  litdata) packages=(litdata numpy) ;;
  datasets) packages=(datasets numpy) ;;
  grain) packages=(grain array-record numpy) ;;
  webdataset) packages=(webdataset numpy) ;;
  torchdata) packages=(torchdata numpy) ;;
  lancedb) packages=(lancedb pylance numpy) ;;
  *) echo "no such peer: $peer" >&2 && exit 2 ;;
esac

venv=.venv-bench-$peer
stamp=$(cat bench/peers/env.sh tests/mosaic/requirements.txt | sha256sum)
if [[ "$(cat "$venv/ready" 2>/dev/null)" != "$stamp" ]]; then
  torch=.venv-bench-torch
  (
    flock 9
    [[ -x $torch/bin/python ]] || "${PYTHON:-python3}" -m venv "$torch"
    "$torch/bin/python" -m pip --quiet --disable-pip-version-check install --no-compile torch==2.13.0
  ) 9>"$torch.lock" >&2
  [[ -x $venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$venv"
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$torch/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/torch.pth"
  install=("$venv/bin/python" -m pip --quiet --disable-pip-version-check install)
  "${install[@]}" torch==2.13.0 "${packages[@]}" >&2
  [[ $peer != mosaic ]] || "${install[@]}" --no-deps 'mosaicml-streaming==0.13.*' >&2
  echo "$stamp" >"$venv/ready"
fi
echo "$venv/bin/python"
