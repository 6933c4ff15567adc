#!/usr/bin/env bash
# Timings and tests on a borrowed GPU in at most nine minutes: in order of worth, every result written at once, each with its limit.
#
#   benchmarks/gpu.sh pack            here: wheels for the borrowed machine, into .gpu/, which is not tracked but has to travel
#   benchmarks/gpu.sh run SECONDS     there, 540 or fewer: $OUT/results.tar.gz holds NAME.txt of each step, done.txt names those that succeeded
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
    tests/data_sets/test_rand_augment.py tests/method/test_coding.py tests/backbones/test_backbones.py::test_the_mean_that_convnets_pool_by_on_cuda_is_the_pool)
CIFAR=${BACKBONE:-convnet resnet18 wrn16_2 mobilenet_v2 shufflenet_v2}
IMAGENET=${BACKBONE:-resnet18 mobilenet_v2 efficientnet_b0 shufflenet_v2_x0_5}
PROFILED=${BACKBONE:-resnet18 mobilenet_v2} # of CIFAR's
BATCH_OF=(${BATCH:+--batch "$BATCH"})
PRECISIONS="float32 bfloat16" PRECISION=bfloat16
[ "$DEVICE" = cuda ] || PRECISIONS=float32 PRECISION=float32

run() {
    local end=$((SECONDS + $1 - 10)) out teacher
    : "${OUT:?expected the folder for results in OUT}"
    out=$(mktemp -d)
    install
    export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
    local benchmark=(python3 -m benchmarks --device "$DEVICE" --threads "${OMP_NUM_THREADS:-4}" --repeats "${REPEATS:-3}")
    step build 100 benchmarks/gpu.sh build "$out"
    step tests 80 python3 -m pytest -o addopts= --import-mode=importlib -ra -n 8 -m "not nightly" -k "not kernels_build" "${TESTS[@]}"
    # Each teacher in a process of its own: what is timed is kept.
    for teacher in $CIFAR; do
        step "step-cifar-$teacher" 45 "${benchmark[@]}" step --setting cifar --no-compile --backbone "$teacher" "${BATCH_OF[@]}"
    done
    for teacher in $PROFILED; do
        step "profile-cifar-$teacher" 45 "${benchmark[@]}" profile --setting cifar --no-compile --precision "$PRECISION" --backbone "$teacher" "${BATCH_OF[@]}"
    done
    for teacher in $IMAGENET; do
        step "step-imagenet-$teacher" 60 "${benchmark[@]}" step --setting imagenet --no-compile --backbone "$teacher" "${BATCH_OF[@]}"
    done
    step student 45 "${benchmark[@]}" student
    step profile-imagenet 45 "${benchmark[@]}" profile --setting imagenet --no-compile --precision "$PRECISION" --backbone "${BACKBONE:-resnet18}" "${BATCH_OF[@]}"
    step tuning 60 "${benchmark[@]}" tuning
    step compiled 150 "${benchmark[@]}" step --setting imagenet --precision "$PRECISION" --backbone "${BACKBONE:-mobilenet}" "${BATCH_OF[@]}"
    step ceilings 30 "${benchmark[@]}" ceilings
}

# A teacher has up to 75 of our Triton kernels (EfficientNet-B0), and a process builds one after another. So each teacher and
# precision has a process now, whose timings mean nothing; later steps find the kernels in Triton's cache. Whatever the batch, they
# are the same ones (tests/method/test_kernels.py).
build() { # FOLDER for what the processes print
    local setting teacher precision job failed=0 jobs=()
    for setting in cifar imagenet; do
        for teacher in $([ $setting = cifar ] && echo "$CIFAR" || echo "$IMAGENET"); do
            is_needed "$setting-$teacher" || continue
            for precision in $PRECISIONS; do
                build_one "$1/build-$setting-$teacher-$precision.txt" --setting "$setting" --backbone "$teacher" --precision "$precision" &
                jobs+=($!)
            done
        done
    done
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    echo "$(find "${TRITON_CACHE_DIR:-$HOME/.triton/cache}" -name '*.cubin' 2> /dev/null | wc -l) kernels are in Triton's cache"
    return $failed
}

build_one() { # FILE OPTION...
    local file=$1 status=0
    shift
    python3 -m benchmarks --device "$DEVICE" --threads 1 --repeats 1 --no-compile --batch "${BATCH:-10}" "$@" step > "$file" 2>&1 || status=$?
    echo "$(basename "$file" .txt): $SECONDS s, status $status"
    return $status
}

is_needed() { # SETTING-TEACHER: is there a step of it that is not done?
    [ ! -e ".gpu/done/step-$1" ] && return
    case " $PROFILED " in *" ${1#cifar-} "*) [ ! -e ".gpu/done/profile-$1" ] ;; *) return 1 ;; esac
}

step() { # NAME SECONDS COMMAND...: within its limit and what is left, unless an earlier run did it
    local name=$1 limit=$(($2 * ${SLOW:-1})) left=$((end - SECONDS)) started=$SECONDS status=0
    shift 2
    [ ! -e ".gpu/done/$name" ] || { echo "== $name: done before"; return; }
    [ "$left" -gt 10 ] || { echo "== $name: no time is left"; return; }
    [ "$limit" -lt "$left" ] || limit=$left
    timeout -s TERM -k 5 "$limit" "$@" > "$out/$name.txt" 2>&1 || status=$?
    # Every machine has to build for itself.
    [ "$status" -ne 0 ] || [ "$name" = build ] || echo "$name" >> "$out/done.txt"
    echo "== $name: $((SECONDS - started)) of $limit s, status $status (124: out of time)"
    tail -n 12 "$out/$name.txt" | cut -c 1-200
    tar -czf "$out.tar.gz" -C "$out" . && deliver "$out.tar.gz" "$OUT/results.tar.gz" # one file: not many may come back
}

unpack() {
    mkdir -p .gpu/results .gpu/done
    tar -xzf "$1" -C .gpu/results
    [ ! -e .gpu/results/done.txt ] || while read -r name; do touch ".gpu/done/$name"; done < .gpu/results/done.txt
}

"$@"
