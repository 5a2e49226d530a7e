#!/usr/bin/env bash
# Runs what a page of docs tells people to type: the commands of its console blocks that stand below the comment "run", in order, in one shell, with
# the programs as built: workstation.md against an agent and simulated GPUs of their own, cluster.md on a test bed (on-bed.sh leads there). A command
# has to end with 0, or with what "# exits N" behind it says; its output is not compared. It ends only what it started, and leaves nothing behind.
# Needs root, as the commands do.
#
# Usage: tests/docs.sh [FOLDER OF THE PROGRAMS [PAGE]]        (target/release and workstation.md if not given)
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$(realpath "${1:-target/release}")
name=docs/${2:-workstation.md}
page=$PWD/$name

for program in memboss memboss-agent memboss-sim libmemboss_sim_nvml.so libmemboss_sim_cuda.so; do
    [ -e "$programs/$program" ] || { echo "$programs has no $program: build it first (cargo build --release --workspace)" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "the page drains GPUs and asks in class urgent: run this as root" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As the page on clusters has it.
mkdir "$work/bin"
ln -s "$programs/memboss" "$work/bin/kubectl-memboss"

echo "page=$name" > "$work/steps.sh"
cat >> "$work/steps.sh" <<'END'
# Whatever the page left running ends with it.
end() {
    local left
    left=$(jobs -p)
    # shellcheck disable=SC2086 # one word for each process
    [ -z "$left" ] || kill $left 2>/dev/null
    wait
}
trap end EXIT

# check LINE EXPECTED GOT
check() {
    [ "$2" = "$3" ] && return
    echo "$page:$1: ended with $3, not $2" >&2
    exit 1
}

# Waits until what was begun in the background can be seen: settle LINE agent | settle LINE NAME-OF-A-LEASE
settle() {
    local deadline=$((SECONDS + 30))
    until if [ "$2" = agent ]; then memboss vram status; else memboss lease list | grep -F "/$2 "; fi > "$0.seen" 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] && continue
        echo "$page:$1: nothing is seen of it:" >&2
        cat "$0.seen" >&2
        exit 1
    done
}
END

# Each command as it is written, then what has to be so behind it.
awk '
    function flush(    expected, named) {
        if (text == "") return
        print text
        commands++
        if (text ~ /&$/) {
            named = text
            if (text ~ /^memboss-agent /) print "settle " at " agent"
            else if (sub(/.*--name /, "", named)) { sub(/ .*/, "", named); print "settle " at " " named }
        } else {
            expected = text
            if (text ~ /\n/ || !sub(/.*# exits /, "", expected)) expected = 0
            print "check " at " " expected " \"$?\""
        }
        text = ""
    }
    /^<!-- run -->$/ { marked = 1; next }
    /^```console$/ && marked { inside = 1; marked = 0; next }
    /^```/ { if (inside) flush(); inside = 0; next }
    !inside { if ($0 != "") marked = 0; next }
    /^\$ / { flush(); text = substr($0, 3); at = NR; next }
    /^> / && text != "" { text = text "\n" substr($0, 3); next }
    # An output: the command before it is whole.
    { flush() }
    END { if (commands == 0) exit 3 }
' "$page" | sed "s#/tmp/memboss#$work/place#g" >> "$work/steps.sh" ||
    { echo "$page has no command to run" >&2; exit 1; }

unset MEMBOSS_SOCKET MEMBOSS_NODE_SOCKET MEMBOSS_SIM_DIR MEMBOSS_NVML_LIBRARY LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES
if ! PATH="$work/bin:$programs:$PATH" timeout -k 10 300 bash "$work/steps.sh" > "$work/said.log" 2>&1; then
    cat "$work/said.log" >&2
    exit 1
fi
echo "$name: every command ends as it says ($(grep -cE '^(check|settle) [0-9]' "$work/steps.sh") of them)"
