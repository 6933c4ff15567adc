#!/usr/bin/env bash
# Timings and tests on a borrowed GPU in at most nine minutes: in order of worth, every result written at once, each with its limit.
#
#   benchmarks/gpu.sh pack            here: wheels for the borrowed machine, into .gpu/, which is not tracked but has to travel
#   benchmarks/gpu.sh run SECONDS     there (about 270 for a step of every teacher, 540 for all): $OUT/results.tar.gz holds NAME.txt of each step, done.txt names those that succeeded
#   benchmarks/gpu.sh unpack ARCHIVE  here: what came back, into .gpu/results/ and .gpu/done/; a second run leaves out what is done
#
# It expects torch and torchvision there, and no network. A rehearsal on the CPU, with one teacher, batches of two, and limits three times as long:
#   GVBSM_DEVICE=cpu SLOW=3 BACKBONE=shufflenet BATCH=2 REPEATS=1 OUT=/tmp/out benchmarks/gpu.sh run 900
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=benchmarks/gpu_common.sh
. benchmarks/gpu_common.sh

DEVICE=${GVBSM_DEVICE:-cuda}
TESTS=(tests/runtime/test_graphs.py tests/method/test_kernels.py tests/method/test_recovery.py tests/method/test_frozen_norms.py tests/method/test_golden.py
    tests/data_sets/test_rand_augment.py tests/method/test_coding.py)

run() {
    local end=$((SECONDS + $1 - 10)) out
    : "${OUT:?expected the folder for results in OUT}"
    out=$(mktemp -d)
    install
    export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
    local benchmark=(python3 -m benchmarks --device "$DEVICE" --threads "${OMP_NUM_THREADS:-4}" --repeats "${REPEATS:-3}")
    local precision=bfloat16 batch=(${BATCH:+--batch "$BATCH"})
    [ "$DEVICE" = cuda ] || precision=float32
    step tests 80 python3 -m pytest -o addopts= --import-mode=importlib -ra -n 8 -m "not nightly" -k "not build_for_gpus" "${TESTS[@]}"
    # Each teacher in a process of its own: building kernels takes longer than timing them, and what is timed is kept.
    local of_imagenet="resnet18 mobilenet_v2 efficientnet_b0 shufflenet_v2_x0_5" of_cifar="convnet resnet18 wrn16_2 mobilenet_v2 shufflenet_v2"
    [ -z "${BACKBONE:-}" ] || of_imagenet=$BACKBONE of_cifar=$BACKBONE
    for teacher in $of_cifar; do
        step "step-cifar-$teacher" 45 "${benchmark[@]}" step --setting cifar --no-compile --backbone "$teacher" "${batch[@]}"
    done
    for teacher in $of_imagenet; do
        step "step-imagenet-$teacher" 60 "${benchmark[@]}" step --setting imagenet --no-compile --backbone "$teacher" "${batch[@]}"
    done
    step profile 45 "${benchmark[@]}" profile --setting imagenet --no-compile --precision "$precision" --backbone "${BACKBONE:-resnet18}" "${batch[@]}"
    step student 45 "${benchmark[@]}" student
    step tuning 60 "${benchmark[@]}" tuning
    step compiled 150 "${benchmark[@]}" step --setting imagenet --precision "$precision" --backbone "${BACKBONE:-mobilenet}" "${batch[@]}"
    step ceilings 30 "${benchmark[@]}" ceilings
}

step() { # NAME SECONDS COMMAND...: within its limit and what is left, unless an earlier run did it
    local name=$1 limit=$(($2 * ${SLOW:-1})) left=$((end - SECONDS)) started=$SECONDS status=0
    shift 2
    [ ! -e ".gpu/done/$name" ] || { echo "== $name: done before"; return; }
    [ "$left" -gt 10 ] || { echo "== $name: no time is left"; return; }
    [ "$limit" -lt "$left" ] || limit=$left
    timeout -s TERM -k 5 "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
    [ "$status" -ne 0 ] || echo "$name" >> "$out/done.txt"
    echo "== $name: $((SECONDS - started)) of $limit s, status $status (124: out of time)"
    tail -n 12 "$out/$name.txt" | cut -c 1-200
    tar -czf "$out.tar.gz" -C "$out" . && mv "$out.tar.gz" "$OUT/results.tar.gz" # one file: not many may come back
}

unpack() {
    mkdir -p .gpu/results .gpu/done
    tar -xzf "$1" -C .gpu/results
    [ ! -e .gpu/results/done.txt ] || while read -r name; do touch ".gpu/done/$name"; done < .gpu/results/done.txt
}

"$@"
