# shellcheck shell=bash disable=SC2154,SC2034
# Counts the system calls of all threads between update_available and script_started, with strace, in runs
# that are not timed. The counts include no polls, because an agent does not poll while it deploys.

work_calls() {
    local run=1 all='' spare bare
    spare=$(named spare) bare=$(named bare)
    start_agent "$spare"
    start_agent "$bare" -no-spare
    # The counted bump is not the first bump, because the first bump has to make more directories.
    if [ -z "$quick" ]; then
        bump_of "$spare" "bump, spare"
        bump_of "$bare" "bump, no spare"
    fi
    calls_of "$spare" "bump, spare"
    calls_of "$bare" "bump, no spare"
}

# calls_of NAME WHO
calls_of() {
    local name=$1 who=$2 trace=$dir/trace from to placed
    strace -f -ttt -q -s 0 -o "$trace" -p "${agent_pid[$name]}" 2>"$dir/out" &
    tracer=$!
    for _ in {1..100}; do
        [ ! -s "$trace" ] || break
        sleep 0.1
    done
    [ -s "$trace" ] || { cat "$dir/out" >&2; fail "strace cannot attach to the agent"; }
    deploy "$name" $((runs + 2))
    end "$tracer"
    tracer=
    from=$(date -d "$(ts "$name" update_available)" +%s.%6N)
    to=$(date -d "$(ts "$name" script_started)" +%s.%6N)
    placed=0
    for how in hardlinked reflinked copied; do
        placed=$((placed + $(field "$name" root_ready "$how" "$mark")))
    done
    awk -v from="$from" -v to="$to" -v placed="$placed" '
        $2 >= from && $2 <= to && $3 !~ /^(<\.\.\.|\+\+\+|---)/ {
            sub(/\(.*/, "", $3); n[$3]++; all++
        }
        END {
            syncs = n["fsync"] + n["fdatasync"] + n["syncfs"] + n["sync"] + n["sync_file_range"]
            printf "%d %d %d", all, placed, syncs
            for (i = 1; i <= 8; i++) {
                best = ""
                for (name in n) if (best == "" || n[name] > n[best]) best = name
                if (best == "") break
                printf " %s:%d", best, n[best]
                delete n[best]
            }
            print ""
        }' "$trace" >"$dir/counts"
    local all files syncs top
    read -r all files syncs top <"$dir/counts"
    record "$who" calls "$all"
    record "$who" files "$files"
    record "$who" each "$(awk -v a="$all" -v b="$files" 'BEGIN { print b ? a / b : 0 }')"
    record "$who" syncs "$syncs"
    top=${top// /, }
    printf -- '- %s: %s\n' "$who" "${top//:/ }" >>"$dir/top-$name"
    rm -f "$trace"
}
ts() { logged "$1" "$2" "$mark" | cut -d'"' -f4; }

table_calls() {
    table "System calls of a bump, $tree, $(filesystem)" unit=none columns=calls,files,each,syncs \
        heads="calls,files placed,calls a file,of them syncs"
    echo
    cat "$dir/top-$(named spare)" "$dir/top-$(named bare)"
}
