#!/usr/bin/env bash
# Applies each of tests/mutants/*.patch to a scratch worktree and runs a simulation until it fails: the one that
# the patch names in its first line (`test: conversations`, the real processors), else `simulation`.
# Prints how many seeds each mutant needed; fails on a survivor, or on a mutant that does not apply or build.
# `test: unit <package> <filter>` names a test of a library, where the simulation does not come by.
# Mutants of the adapters say `test: real <package> <filter>` (a test on the real server) or `test: chaos <seed>
# <minutes>` (the fault campaign). They need Java 17 and Maven, take minutes each, and are run where they are named or
# P2_REAL is 1.
# Usage: scripts/mutants.sh [name…]   P2_SIM_SEEDS (default 4000): how many seeds a mutant may survive.
set -euo pipefail
root=$(git rev-parse --show-toplevel)
seeds=${P2_SIM_SEEDS:-4000}
scratch=$(mktemp -d)
cleanup() { git -C "$root" worktree remove --force "$scratch/tree" 2>/dev/null || true; rm -rf "$scratch"; }
trap cleanup EXIT
git -C "$root" worktree add --quiet --detach "$scratch/tree" HEAD
cd "$scratch/tree"
# Never the project's own: what was built from a mutant would pass there for what is built from the sources, which are older.
export CARGO_TARGET_DIR="${P2_MUTANTS_TARGET:-$root/target/mutants}"
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for patch in "$root"/tests/mutants/*.patch; do
        if [ "${P2_REAL:-}" != 1 ] && grep -qE '^test: (real|chaos) ' "$patch"; then continue; fi
        names+=("$(basename "$patch" .patch)")
    done
fi
failed=0

# A mutant of an adapter or for a library's test: builds the test, runs it, and says whether it failed as it should.
of_test() {
    local name=$1 kind=$2 what=$3 more=$4 build run
    if [ "$kind" = real ]; then
        build=(cargo test --quiet -p "$what" --test real --no-run)
        run=(env P2_REAL=1 cargo test --quiet -p "$what" --test real "$more")
    elif [ "$kind" = unit ]; then
        build=(cargo test --quiet -p "$what" --lib --no-run)
        run=(cargo test --quiet -p "$what" --lib "$more")
    else
        build=(cargo build --quiet -p p2engine)
        run=("$CARGO_TARGET_DIR/debug/p2engine" chaos --seed "$what" --minutes "$more")
    fi
    if ! "${build[@]}" >"$scratch/build" 2>&1; then
        echo "$name: does not build"; sed -n 1,20p "$scratch/build"; return 1
    fi
    if "${run[@]}" >"$scratch/out" 2>&1; then
        echo "$name: SURVIVED ${run[*]}"; return 1
    fi
    echo "$name: killed by ${kind} ${what} ${more}: $(grep -m1 -E '^error: |panicked' "$scratch/out" || true)"
}

for name in "${names[@]}"; do
    patch="$root/tests/mutants/$name.patch"
    test=$(sed -n '1s/^test: //p' "$patch")
    test=${test:-simulation}
    git checkout --quiet -- .
    if ! git apply "$patch" 2>"$scratch/build"; then
        echo "$name: does not apply: $(head -1 "$scratch/build")"; failed=1; continue
    fi
    read -r kind what more <<<"$test"
    if [ "$kind" = real ] || [ "$kind" = chaos ] || [ "$kind" = unit ]; then
        of_test "$name" "$kind" "$what" "$more" || failed=1
        continue
    fi
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
