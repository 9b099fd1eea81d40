#!/bin/sh
# Download onnxruntime-web from npm into vendor/, which the page loads: 14.3 MB, of which 14.2 MB are WebAssembly.
# Usage: sh docs/demo/vendor.sh [FILE]    FILE: a tarball of onnxruntime-web that is at hand already
set -eu
version=1.30.0
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ $# -gt 0 ]; then
    cp "$1" "$scratch/package.tgz"
else
    (cd "$scratch" && npm pack "onnxruntime-web@$version" --silent >/dev/null && mv onnxruntime-web-*.tgz package.tgz)
fi
tar -xzf "$scratch/package.tgz" -C "$scratch"
mkdir -p "$here/vendor"
for file in ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm; do
    cp "$scratch/package/dist/$file" "$here/vendor/$file"
done
du -sh "$here/vendor"
