#!/usr/bin/env bash
# Accuracy studies on a borrowed GPU: what is missing, in order of worth; every result is written at once, and the end comes in time.
#
#   benchmarks/studies/gpu.sh pack [ARCHIVES] here: wheels for the borrowed machine, the data and what came back from an earlier
#                                             one, into .gpu/, which is not tracked
#   benchmarks/studies/gpu.sh run SECONDS     there: makes TARGETS; $OUT/results.N.tar.gz hold what there is, anew after every minute
#   benchmarks/studies/gpu.sh unpack ARCHIVES here: adds what came back to results/
#
# It expects torch and torchvision there, and no network. A rehearsal on the CPU:
#   GVBSM_DEVICE=cpu TARGETS=results/digits/ipc10/acc.json OUT=/tmp/out benchmarks/studies/gpu.sh run 300
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=benchmarks/gpu_common.sh
. benchmarks/gpu_common.sh
NEEDS_DATA=yes # for pack

# A line is made at once: what it has in common, and jobs for which one alone leaves no work. What table.csv has is not here.
# Teachers are made there: one of a ResNet18 has 45 MB, and 64 MiB travel in all. Without them a target that needs labels or
# images trains its teachers again, and keeps what else an earlier machine made.
TARGETS=${TARGETS:-$(
    cat << 'TARGETS'
results/paper-cifar10.convnet/ipc50-published/acc.json results/paper-cifar10.resnet18/ipc50-published/acc.json results/paper-cifar10.paper/ipc10-images1/acc.json
results/paper-cifar10.paper/ipc10-published_images1/acc.json results/paper-cifar10.convnet/ipc10-teachers5/acc.json results/paper-cifar10.convnet/ipc10-jpeg/acc.json
results/edc-cifar10.four/ipc10-edc/acc.json
results/edc-cifar10.four/ipc10/acc.json results/edc-cifar10.four/ipc10-ours/acc.json results/edc-cifar10.four/ipc10-rded/acc.json
results/paper-cifar10/compare.csv
results/methods-cifar10/compare.csv
results/steps-cifar10/compare.csv
TARGETS
)}

run() {
    local end=$((SECONDS + $1 - 30)) out=${OUT:?expected the folder for results in OUT}
    install
    [ ! -d .gpu/earlier ] || unpack .gpu/earlier/*
    if [ -d .gpu/wheels ]; then
        python3 -m pip install --quiet --no-index --no-deps --no-build-isolation -e . 2> "$out/install.txt" ||
            export PYTHONPATH=$PWD # without setuptools: `python -m gvbsm`
    fi
    command -v gvbsm > /dev/null || { mkdir -p .gpu/bin && printf '#!/bin/sh\nexec python3 -m gvbsm "$@"\n' > .gpu/bin/gvbsm && chmod +x .gpu/bin/gvbsm; }
    export PATH=$PWD/.gpu/bin:$PATH GVBSM_JOBS_PER_GPU=${GVBSM_JOBS_PER_GPU:-12} PYTHONUNBUFFERED=1
    local line together # nproc alone counts OMP_NUM_THREADS
    while read -r line; do
        [ -n "$line" ] || continue
        local left=$((end - SECONDS))
        [ "$left" -gt 20 ] || { echo "no time is left for $line"; continue; }
        echo "== $line ($left s left)"
        read -ra together <<< "$line"
        timeout -s TERM -k 15 "$left" python3 -m snakemake --cores "$(nproc --all)" --resources gpu="$GVBSM_JOBS_PER_GPU" --keep-going \
            -- "${together[@]}" > "$out/snakemake.txt" 2>&1 < /dev/null &
        local job=$!
        while kill -0 "$job" 2> /dev/null; do
            for _ in $(seq 60); do kill -0 "$job" 2> /dev/null && sleep 1; done
            collect "$out"
        done
        wait "$job" || tail -n 20 "$out/snakemake.txt"
        collect "$out"
    done <<< "$TARGETS"
}

collect() { # what may come back, at once
    python3 benchmarks/studies/collect.py results "$1" || echo "not collected: status $?"
}

unpack() { # each by itself: one may be missing or damaged
    local archive failed=0
    for archive in "$@"; do
        tar -xzf "$archive" --skip-old-files || { echo "$archive: not unpacked whole" >&2 && failed=1; }
    done
    return $failed
}

"$@"
