#!/usr/bin/env bash
# hit beside its peers: one machine, one server, in turns.
#
#     bash benches/hit/compare.sh [ROUNDS] [REQUESTS] [CONNECTIONS]
#
# oha (`cargo install --locked oha`), hey and wrk (packages of Debian) take part when
# they are on the PATH; OHA=/path/to/oha helps. Prints the median of each, the CPU per
# request, and both by those of oha. Each turn is compared with the others of its round
# only, so a machine that is busy with something else spoils less than it could; what
# counts is the ratios.
set -euo pipefail

rounds=${1:-7} requests=${2:-300000} connections=${3:-64}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
OHA=${OHA:-oha}

if [[ -z ${HIT:-} || -z ${SERVER:-} ]]; then
    cargo build --quiet --release --features cli --bin hit --example hit_server
fi
HIT=${HIT:-target/release/hit} SERVER=${SERVER:-target/release/examples/hit_server}

work=$(mktemp -d)
"$SERVER" >"$work/url" &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$work"' EXIT
until [[ -s $work/url ]]; do :; done
url=$(cat "$work/url")

# Seconds of CPU that a command takes, and what it says the rate is.
turn() {
    local name=$1 rate
    shift
    { TIMEFORMAT='%U %S %R'; time "$@" >"$work/out" 2>/dev/null; } 2>"$work/time"
    rate=$(awk '/^ *rate / { sub(/\/s/, ""); print $2; exit } /Requests\/sec/ { print $2; exit }' "$work/out")
    # What was sent in fact: wrk goes by time.
    awk -v name="$name" -v rate="$rate" -v requests="$requests" '
        { if (name == "wrk") requests = rate * $3
          printf "%s %.0f %.3f\n", name, rate, ($1 + $2) / requests * 1e6 }' "$work/time" >>"$work/turns"
}

has() { command -v "$1" >/dev/null 2>&1; }

for ((round = 1; round <= rounds; round++)); do
    turn hit "$HIT" -n "$requests" -c "$connections" "$url"
    if has "$OHA"; then turn oha "$OHA" --no-tui -n "$requests" -c "$connections" "$url"; fi
    if has hey; then turn hey hey -n "$requests" -c "$connections" "$url"; fi
    if has wrk; then turn wrk wrk -d 2s -t 2 -c "$connections" "$url"; fi
    printf '\rround %d of %d' "$round" "$rounds" >&2
done
printf '\r\033[K' >&2

median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

column() { awk -v name="$1" -v at="$2" '$1 == name { print $at }' "$work/turns"; }

# The median, over the rounds, of one's number by oha's in the same round.
ratio() { paste <(column "$1" "$2") <(column oha "$2") | awk '$2 { print $1 / $2 }' | median; }

echo "$rounds rounds of $requests requests at $connections at once, on $(nproc) cores"
printf '%-5s %12s %14s %10s %10s\n' '' requests/s 'CPU µs/request' 'rate/oha' 'CPU/oha'
for name in $(awk '!seen[$1]++ { print $1 }' "$work/turns"); do
    if has "$OHA"; then rate=$(ratio "$name" 2) cpu=$(ratio "$name" 3); else rate=- cpu=-; fi
    printf '%-5s %12.0f %14.2f %10.4s %10.4s\n' "$name" "$(column "$name" 2 | median)" \
        "$(column "$name" 3 | median)" "$rate" "$cpu"
done
