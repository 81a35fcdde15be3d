#!/usr/bin/env bash
# `python bench/gpu` and the training of the embedded models on a CUDA machine without a network. Such a machine has
# Python, torch, triton and transformers; what else is needed travels as wheels in .gpu/, and nothing is built there.
#
# In the repository, with a network:
#   bench/gpu/offline.sh prepare                           the wheels, into .gpu/
#   DDIS_DATA=FOLDER bench/gpu/offline.sh prepare train    the images to train on, and only the wheels for that
# On the CUDA machine, in a copy of the working tree with .gpu/:
#   bench/gpu/offline.sh run                               all parts within 560 seconds
#   bench/gpu/offline.sh run --add --total 150 --only throughput inductor
#   bench/gpu/offline.sh train all --seconds 240 --device cuda --resolution 64
# A dry run, on a CPU:
#   DDIS_KERNELS_BACKEND=reference bench/gpu/offline.sh run --device cpu
#
# Results go to $OUT, out/gpu by default: those of `python bench/gpu`, or weights.tar.00, .01, ... and train.log. A second
# `run` in the same place needs --add to keep what the first one found. Weights come back with
#   cat weights.tar.* | tar -x -C engine/embedded
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON_VERSION=3.12   # of the CUDA machine
PIECE=15M             # of weights, for ways back that limit the size of a file
COMMON="diffusers importlib-metadata lazy-importer zipp"

# download FOLDER PACKAGE...: wheels for the CUDA machine, of the versions that constraints.txt pins
download() {
  local folder=$1 wanted=() platforms=() name glibc
  shift
  rm -rf "$folder"
  for name in "$@"; do
    wanted+=("$(grep -m 1 "^$name==" constraints.txt)")
  done
  for glibc in 2_28 2_27 2_24 2_17; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
  done
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$PYTHON_VERSION" --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --dest "$folder" "${wanted[@]}"
}

# Of the 43 MB of bitsandbytes, CUDA 13.0 and the CPU need 4.
without_other_cudas() {
  python3 - "$1" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path
(wheel,) = Path(sys.argv[1]).glob("*.whl")
small = wheel.with_suffix(".small")
with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as kept:
    for name in whole.namelist():
        if not re.search(r"libbitsandbytes_(?!cpu|cuda130)\w+\.so$", name):
            kept.writestr(name, whole.read(name))
small.replace(wheel)
PYTHON
}

prepare() {
  local what=${1:-run} bytes
  rm -rf .gpu
  mkdir -p .gpu/wheels
  git describe --always --abbrev=12 --dirty > .gpu/commit
  # shellcheck disable=SC2086
  download .gpu/wheels/common $COMMON
  if [ "$what" = run ]; then
    download .gpu/wheels/xformers xformers
    download .gpu/wheels/bitsandbytes bitsandbytes
    without_other_cudas .gpu/wheels/bitsandbytes
  else
    mkdir .gpu/data
    cp "${DDIS_DATA:?set DDIS_DATA to the folder of the PACS parquet files}"/pacs64-*.parquet .gpu/data/
  fi
  bytes=$({ git ls-files -z --cached --others --exclude-standard; find .gpu -type f -print0; } |
    xargs -0 stat --format %s 2> /dev/null | awk '{ n += $1 } END { print n }')
  echo "ready: the working tree and .gpu/ are $((bytes / 1048576)) MiB, of which .gpu/ is $(du -sm .gpu | cut -f 1)"
}

# Where Python finds this package and the wheels: not the repository itself, whose folder `kernels` bears the name of
# a package that transformers looks for.
unpack() {
  site=$(mktemp -d)
  local folder wheel
  for folder in .gpu/wheels/*; do
    mkdir -p "$site/$(basename "$folder")"
    for wheel in "$folder"/*.whl; do
      python3 -m zipfile -e "$wheel" "$site/$(basename "$folder")"
    done
  done
  mkdir "$site/ours"
  ln -s "$PWD/engine" "$PWD/kernels/ddis_kernels" "$site/ours/"
  export PYTHONPATH=$site/ours:$site/common HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
}

run() {
  unpack
  python3 bench/gpu --out "$OUT" --total 560 --wheels "$site" "$@"
}

train() {
  local work=${TMPDIR:-/tmp}/ddis-train status=0
  unpack
  mkdir -p "$work" "$OUT"
  python3 -P -m engine.embedded.train "$@" --data .gpu/data --work "$work" --out "$work/weights" 2>&1 |
    tee "$OUT/train.log" || status=$?
  if [ -d "$work/weights" ]; then  # also after a stage that failed: others may have been packed
    tar -c -C "$work" weights | split -d -b "$PIECE" - "$OUT/weights.tar."
  fi
  return "$status"
}

OUT=${OUT:-out/gpu}
case ${1:-} in
  prepare | run | train) "$@" ;;
  *)
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
