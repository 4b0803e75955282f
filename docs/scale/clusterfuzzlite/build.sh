#!/bin/bash -eu
cd "$SRC/quell"
cargo fuzz build -O
for target in $(cargo fuzz list); do
  cp "fuzz/target/x86_64-unknown-linux-gnu/release/$target" "$OUT/"
  zip -jr "$OUT/${target}_seed_corpus.zip" "fuzz/corpus/$target"
done
