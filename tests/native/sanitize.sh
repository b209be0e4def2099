#!/bin/sh
# Fuzzes the compiled core under AddressSanitizer with UndefinedBehaviorSanitizer, then under
# ThreadSanitizer: sanitize.sh [SECONDS of each, 30] [SEED].  Fails if anything is found.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-30}
seed=${2:-1}

build() { # folder, sanitizers
  cmake -S "$root" -B "$1" -DCMAKE_BUILD_TYPE=Release -DXCONV_PYTHON=OFF -DXCONV_FUZZ=ON \
    -DXCONV_WERROR=ON -DXCONV_SANITIZE="$2" >"$1.log" 2>&1 || { cat "$1.log"; exit 1; }
  cmake --build "$1" --parallel >>"$1.log" 2>&1 || { cat "$1.log"; exit 1; }
}

mkdir -p "$root/build"
build "$root/build/asan" "address,undefined"
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$root/build/asan/fuzz" "$seconds" "$seed"
build "$root/build/tsan" "thread"
TSAN_OPTIONS=halt_on_error=1 "$root/build/tsan/fuzz" "$seconds" "$seed" 3
