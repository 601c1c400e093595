#!/usr/bin/env bash
# f_vae, glow and vae on the same images for equal minutes, one thread each, and what came out side by side.
# usage: benchmarks/equal_minutes.sh SRC OUT [MINUTES]     (two at a time: it wants two idle cores)
set -euo pipefail
src=$1 out=$2 minutes=${3:-20}
export OMP_NUM_THREADS=1
one() {
    recipe=$1
    shift
    fvae train "$recipe" --data "$src" --out "$out/$recipe" --train.minutes "$minutes" --train.batch_size 16 \
        --train.every 100 --train.test_images 128 --train.accelerator cpu "$@"
}
one f_vae --model.blocks 2 --model.width 96 &
one glow --model.depth 6 --model.width 96 &
wait
one vae
fvae compare "$out/f_vae" "$out/glow" "$out/vae" --out "$out/compare"
for recipe in f_vae glow vae; do
    fvae evaluate "$out/$recipe" --samples 8 --json "$out/compare/$recipe.json"
done
