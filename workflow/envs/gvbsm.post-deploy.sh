#!/usr/bin/env bash
# Run by Snakemake in an environment that it has made from gvbsm.yaml: the package that plans is the one that runs.
# Without --no-deps pip would bring its own builds of what conda has installed.
set -euo pipefail
source="${GVBSM_SOURCE:?set by the Snakefile}"
if test -d "$source"; then # a clone
    python -m pip install --no-deps --no-build-isolation --editable "$source"
else
    python -m pip install --no-deps "$source"
fi
