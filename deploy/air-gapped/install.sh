#!/usr/bin/env bash
# Install wbc-fl from this folder, without a network, into a new virtual environment:  ./install.sh /srv/wbc/venv
# Compare first, by telephone:  sha256sum SHA256SUMS
set -euo pipefail
venv=${1:?"usage: install.sh VENV"}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS)
extra=$(cd "$here" && find . -type f ! -name SHA256SUMS | sort | comm -23 - <(cut -c67- SHA256SUMS | sort))
if [ -n "$extra" ]; then
  echo "error: not in SHA256SUMS: $extra; next step: fetch the folder again" >&2
  exit 5
fi
python3 -m venv "$venv"
# No configuration of this machine may add another place to look.
PIP_CONFIG_FILE=/dev/null "$venv/bin/pip" --isolated install --quiet --no-index --find-links "$here/wheels" wbc-fl
"$venv/bin/pip" check
"$venv/bin/wbc-client" --help >/dev/null
echo "installed; the commands are in $venv/bin"
