#!/usr/bin/env bash
# What an hour on a GPU should answer, in steps of under eight minutes; each writes $OUT/STEP.json.
#
#   bash benchmarks/gpu.sh                    # all steps that have no result in $OUT yet
#   bash benchmarks/gpu.sh tasks profile      # these alone
#   SCALE=small bash benchmarks/gpu.sh        # a rehearsal in minutes, also on a CPU
#   bash benchmarks/gpu.sh bundle             # on a machine with a network: wheels and data for one without
#
# The machine needs Python with torch and torchvision. What else is missing, and Fashion-MNIST, is taken from
# benchmarks/gpu-bundle, if it is there; no network is used.
set -euo pipefail
cd "$(dirname "$0")/.."
export OUT=${OUT:-gpu-results} SCALE=${SCALE:-full} PYTHON=${PYTHON:-python3} PYTHONUNBUFFERED=1
bundle=benchmarks/gpu-bundle
steps=(machine tasks zoo ratios crops compiled profile train peers compare resume sharded)

if [ "${1:-}" = bundle ]; then
    mkdir -p "$bundle/wheels" "$bundle/FashionMNIST/raw"
    cp "${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}"/*-ubyte.gz "$bundle/FashionMNIST/raw/"
    # shellcheck disable=SC2086 # several words
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "${TARGET:-3.12}" \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform any -d "$bundle/wheels" \
        ${WHEELS:-pydantic pydantic-core annotated-types typing-inspection timm filelock lightly lightning-utilities tqdm packaging typing-extensions}
    du -sh "$bundle"
    exit
fi

if ! "$PYTHON" -c "import importlib.metadata as m, ssl_zoo.cli.app, timm; m.version('ssl-zoo')" 2>/dev/null; then
    site=$(mktemp -d)
    for wheel in "$bundle"/wheels/*.whl; do
        [ -e "$wheel" ] || continue
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheel"
    done
    "$PYTHON" benchmarks/gpu_steps.py link "$site"
    export PYTHONPATH="$site:$PWD:$PWD/plugins${PYTHONPATH:+:$PYTHONPATH}"
fi
[ -d "$bundle/FashionMNIST" ] && export SSL_ZOO_DATA=${SSL_ZOO_DATA:-$PWD/$bundle}

mkdir -p "$OUT"
failed=0
[ $# -gt 0 ] && steps=("$@")
for step in "${steps[@]}"; do
    if [ -s "$OUT/$step.json" ]; then
        echo "== $step: done before ($OUT/$step.json)"
        continue
    fi
    echo "== $step ($SECONDS s)"
    timeout --kill-after 10 470 "$PYTHON" benchmarks/gpu_steps.py "$step" "$OUT" "$SCALE" \
        || { echo "== $step failed with code $?; the others go on" >&2; failed=1; }
done
exit "$failed"
