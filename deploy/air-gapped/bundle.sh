#!/usr/bin/env bash
# A folder from which wbc-fl is installed without a network: wheels of it and of all it needs, checksums, install.sh.
#   deploy/air-gapped/bundle.sh OUT [pip download's options]
# Without options it is for machines like this one (same Python version and platform), with torch as this machine's
# index has it. A smaller one without CUDA:    … OUT --extra-index-url https://download.pytorch.org/whl/cpu
# For another Python on Linux; pip takes a wheel only if its tag is named, and those needed have 2014, 2_17, … 2_28:
#   … OUT --python-version 3.12 --platform manylinux2014_x86_64 $(printf -- '--platform manylinux_2_%s_x86_64 ' {17..28})
set -euo pipefail
out=${1:?"usage: bundle.sh OUT [pip download's options]"}
shift
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -e "$out" ]; then
  echo "error: $out exists; next step: name a new folder" >&2
  exit 2
fi
mkdir -p "$out/wheels"
python3 -m pip wheel --quiet --no-deps --wheel-dir "$out/wheels" "$source"
python3 -m pip download --quiet --only-binary=:all: --dest "$out/wheels" "$@" "$out"/wheels/wbc_fl-*.whl
cp "$source/deploy/air-gapped/install.sh" "$source/deploy/README.md" "$source/LICENSE" "$out"
cp -r "$source/deploy/"*.service "$out"
(cd "$out" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
echo "$out: $(find "$out/wheels" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1)"
echo "to compare by telephone: $(sha256sum "$out/SHA256SUMS" | cut -d' ' -f1)"
