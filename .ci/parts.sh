# What .ci/run and .ci/nightly share. Sourced in the root of the checkout.
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Figures for the maths beyond those in the repository, where they lie beside it.
if [ -d ../shared/golden ]; then GVBSM_GOLDEN=$(cd ../shared/golden && pwd); export GVBSM_GOLDEN; fi

step="" began=0
say() { # say STEP: how long the one before took, and what comes now
    if [ -n "$step" ]; then printf '== %s: %d s\n' "$step" $((SECONDS - began)); fi
    step=$1 began=$SECONDS
    printf '\n== %s (at %d s)\n' "$step" "$SECONDS"
}

fresh() { # a clone and an environment with nothing in it, both entered
    git clone --quiet "$root" "$work/clone"
    cd "$work/clone"
    python3 -m venv .venv
    # shellcheck disable=SC1091
    . .venv/bin/activate
}

debian() { # packages of the system, where they can be installed; elsewhere the tests say why they are skipped
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then return; fi
    if [ ! -e "$work/apt.txt" ]; then apt-get update > "$work/apt.txt" 2>&1 || tail -n 3 "$work/apt.txt"; fi
    apt-get install -y --no-install-recommends "$@" > "$work/apt.txt" 2>&1 || tail -n 3 "$work/apt.txt"
}

install_for() { # what the tests of a nightly group need beside the package; of most, nothing
    case $1 in
        slurm) pip install --quiet -e ".[slurm]" && debian slurm-wlm munge ;;
        browser) pip install --quiet -e ".[docs]" && debian chromium-headless-shell ;;
        ddranking) pip install --quiet --no-deps ddranking ;; # it asks for an older numpy than torch does, and runs with this one
    esac
}
