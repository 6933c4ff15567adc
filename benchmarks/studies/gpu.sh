#!/usr/bin/env bash
# The accuracy studies on a borrowed GPU: what is missing, in order of worth, each result written at once, over in time.
#
#   benchmarks/studies/gpu.sh pack           here: wheels for python 3.12, the data, and artifacts that are made, into .gpu/ (not tracked)
#   benchmarks/studies/gpu.sh run SECONDS    there: results in $OUT
#   benchmarks/studies/gpu.sh unpack FILE    here: lay a results.tar.gz that came back into results/
#
# GVBSM_DEVICE=cpu TARGETS="results/digits/ipc10/acc.json" OUT=/tmp/out benchmarks/studies/gpu.sh run 300 rehearses it anywhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
MIB=58 # of the 64 that travel, the rest is the working tree

# Teachers are made anew: five epochs take less than sending them. What follows shares them, and so is cheap where they are there.
TARGETS=${TARGETS:-
    results/paper-cifar10.paper/ipc10/acc.json
    results/paper-cifar10.paper/ipc10-published/acc.json
    results/edc-cifar10/compare.csv
    results/paper-cifar10.paper/ipc10-sre2l/acc.json
    results/paper-cifar10.convnet/ipc50-published/acc.json
    results/paper-cifar10.resnet18/ipc50-published/acc.json
    results/paper-cifar10/compare.csv}

pack() {
    grep -qx '/.gpu/' .git/info/exclude || echo '/.gpu/' >> .git/info/exclude
    mkdir -p .gpu/wheels .gpu/data
    # Torch, torchvision and what they need are there; pulp only schedules, and is large.
    python3 -m pip download --quiet --python-version 3.12 --only-binary=:all: --dest .gpu/resolved --no-deps \
        filelock jinja2 markupsafe kornia kornia_rs matplotlib pandas 'pydantic>=2.11,<2.13' annotated_types typing_inspection pygments pyyaml \
        safetensors scikit-learn scipy snakemake timm tqdm nvidia-ml-py
}
