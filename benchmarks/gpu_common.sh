# shellcheck shell=bash
# For scripts that run on a borrowed GPU machine: what it lacks is packed here into .gpu/, which is not tracked, and installed there.
# It expects torch and torchvision there, and no network. The scripts have changed to the project's root.
PYTHON=3.12 # of the borrowed machine

pack() { # [ARCHIVES that an earlier machine sent back]
    local name archive=""
    for name in data/cifar10-jpeg.tar.xz ../shared/data/cifar10-jpeg.tar.xz; do # here, or beside the checkout
        [ ! -e "$name" ] || { archive=$name && break; }
    done
    if [ -z "$archive" ] && [ -n "${NEEDS_DATA:-}" ]; then
        echo "cifar10-jpeg.tar.xz: expected it in data/ or ../shared/data/, as studies need it; found it in neither: fetch it (benchmarks/studies/README.md)" >&2
        exit 1
    fi
    grep -qx '/.gpu/' .git/info/exclude || echo '/.gpu/' >> .git/info/exclude
    rm -rf .gpu/wheels .gpu/done .gpu/earlier && mkdir -p .gpu/wheels .gpu/data
    for name in $(needed); do # a wheel for the other python, or one for any that is built here
        python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$PYTHON" --dest .gpu/wheels "$name" 2> .gpu/pip.txt ||
            python3 -m pip wheel --quiet --no-deps --wheel-dir .gpu/wheels "$name" 2> .gpu/pip.txt ||
            { cat .gpu/pip.txt && exit 1; }
    done
    if [ -n "$archive" ]; then cp "$archive" .gpu/data/; fi
    if [ $# -gt 0 ]; then mkdir .gpu/earlier && cp -- "$@" .gpu/earlier/; fi
    du -sh .gpu
}

needed() { # every package that gvbsm and its tests need, in the versions here, but for what is there with torch and the large pulp, which the profile's scheduler does without
    python3 - << 'NEEDED'
import re
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

THERE = {"torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow", "pulp", "timm"}
seen, todo = set(), ["gvbsm", "pytest-xdist"]
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name in seen or name in THERE or name.startswith("nvidia-c"):
        continue
    seen.add(name)
    for requirement in map(Requirement, requires(name) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            todo.append(requirement.name)
for name in sorted(seen - {"gvbsm"}):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        continue
NEEDED
}

deliver() { # FILE GOAL: at once or not at all, on whatever disk; a run can end at any moment
    cp "$1" "$(dirname "$2")/.$(basename "$2")" && mv "$(dirname "$2")/.$(basename "$2")" "$2"
}

install() { # what was packed; a rehearsal has its own
    [ -d .gpu/wheels ] && [ "${GVBSM_DEVICE:-}" != cpu ] || return 0
    python3 -m pip install --quiet --no-index --no-deps --find-links .gpu/wheels .gpu/wheels/*.whl
    mkdir -p data
    cp -n .gpu/data/* data/ 2> /dev/null || true # there may be none
}
