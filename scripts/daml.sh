#!/bin/sh
# Builds the contracts in daml/ and runs their tests, where the Daml tools are installed.
set -eu
cd "$(dirname "$0")/../daml"
if command -v dpm >/dev/null 2>&1; then
  tool=dpm
elif command -v daml >/dev/null 2>&1; then
  tool=daml
else
  echo "Neither 'dpm' nor 'daml' is installed: nothing was built and nothing was tested." >&2
  echo "The tools: https://docs.digitalasset.com/build/3.4/dpm/dpm.html" >&2
  exit 3
fi
(cd ledger && "$tool" build)
(cd test && "$tool" build && "$tool" test)
echo "Built: daml/ledger/.daml/dist/p2engine-ledger-1.0.0.dar"
