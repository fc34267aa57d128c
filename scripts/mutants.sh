#!/usr/bin/env bash
# Applies each of tests/mutants/*.patch to a scratch worktree and runs a simulation until it fails: the one that
# the patch names in its first line (`test: conversations`, the real processors), else `simulation`.
# Prints how many seeds each mutant needed; fails on a survivor or on a mutant that does not build.
# Usage: scripts/mutants.sh [name…]   P2_SIM_SEEDS (default 4000): how many seeds a mutant may survive.
set -euo pipefail
root=$(git rev-parse --show-toplevel)
seeds=${P2_SIM_SEEDS:-4000}
scratch=$(mktemp -d)
cleanup() { git -C "$root" worktree remove --force "$scratch/tree" 2>/dev/null || true; rm -rf "$scratch"; }
trap cleanup EXIT
git -C "$root" worktree add --quiet --detach "$scratch/tree" HEAD
cd "$scratch/tree"
export CARGO_TARGET_DIR="${P2_MUTANTS_TARGET:-$root/target}"
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in "$root"/tests/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
failed=0
for name in "${names[@]}"; do
    patch="$root/tests/mutants/$name.patch"
    test=$(sed -n '1s/^test: //p' "$patch")
    test=${test:-simulation}
    git checkout --quiet -- . && git apply "$patch"
    if ! cargo test --quiet -p p2-sim --test "$test" --no-run >"$scratch/build" 2>&1; then
        echo "$name: does not build"; sed -n 1,20p "$scratch/build"; failed=1; continue
    fi
    if P2_SIM_SEEDS=$seeds cargo test --quiet -p p2-sim --test "$test" two_thousand >"$scratch/out" 2>&1; then
        echo "$name: SURVIVED $seeds seeds"; failed=1
    else
        found=$(grep -m1 -E '^seed [0-9]+:' "$scratch/out" || true)
        [ -n "$found" ] || { echo "$name: failed, but by no seed:"; tail -5 "$scratch/out"; failed=1; continue; }
        echo "$name: killed by $found"
    fi
done
exit $failed
