# shellcheck shell=bash disable=SC2154,SC2034
# The registry and the agents that scripts/bench-peers measures, and what their logs say.

poll=500ms idle_seconds=4 pause=0.3
[ -z "$quick" ] || poll=50ms idle_seconds=0.5 pause=0.1
registry_pid=
declare -A agent_pid=() agent_script=() idle=()

# end PID: ends a process that this script started, and waits for it.
end() {
    kill "$1" 2>/dev/null || true
    for _ in {1..100}; do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

stop_agents() {
    local name
    for name in "${!agent_pid[@]}"; do end "${agent_pid[$name]}"; done
    agent_pid=()
}

stop_all() {
    [ -z "${tracer:-}" ] || end "$tracer"
    stop_agents
    [ -z "$registry_pid" ] || end "$registry_pid"
}

start_registry() {
    local key tree version
    for key in operator server; do ssh-keygen -q -t ed25519 -N '' -C "$key" -f "$dir/$key"; done
    mkdir "$dir/registry"
    : >"$dir/registry.log"
    setsid "$bin/deploy-registry" -addr 127.0.0.1:0 -dir "$dir/registry" -opauth "$dir/operator.pub" \
        -srvauth "$dir/server.pub" 2>"$dir/registry.log" &
    registry_pid=$!
    for _ in {1..200}; do
        port=$(sed -n 's/.*listening on .*:\([0-9]*\)$/\1/p' "$dir/registry.log")
        [ -z "$port" ] || break
        kill -0 "$registry_pid" 2>/dev/null || break
        sleep 0.05
    done
    [ -n "$port" ] || { cat "$dir/registry.log" >&2; fail "the registry does not start"; }
    fingerprint=$(grep -o 'SHA256:[A-Za-z0-9+/=]*' "$dir/registry.log" | head -1)
    client=(-F /dev/null -i "$dir/operator" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no
        -o "UserKnownHostsFile=$dir/known_hosts" -o LogLevel=ERROR)
    for tree in ${trees//,/ }; do
        add "tree-$tree" 0 "$(tree_blob)"
        for version in $(seq 0 $((runs + 2))); do
            add "config-$tree" "$version" "$(config_blob "$version")"
        done
    done
}

operate() {
    ssh "${client[@]}" -p "$port" operator@127.0.0.1 "$@" </dev/null >"$dir/out" 2>&1 ||
        { cat "$dir/out" >&2; fail "the registry refused: $*"; }
}

# add COMPONENT VERSION BLOB
add() {
    local digest
    digest=$(sha256sum "$3" | cut -c1-64)
    echo "put $3" | sftp "${client[@]}" -q -b - -P "$port" operator@127.0.0.1 >"$dir/out" 2>&1 ||
        { cat "$dir/out" >&2; fail "cannot upload $3"; }
    operate addver -name "$1" -version "$2" -hash "$digest"
}

# agent NAME FLAG...: runs an agent of the configuration NAME on the new filesystem, in a
# session of its own, so that Ctrl-C is this script's alone. `once` as the first flag waits
# for its end.
agent() {
    local name=$1
    shift
    cat >"$dir/$name.script" <<SCRIPT
#!/usr/bin/perl
use Time::HiRes qw(clock_gettime);
open my \$file, '>', '$dir/$name.cpu';
printf \$file "%.0f\n", 1e9 * clock_gettime((-getppid() - 1) * 8 + 2);
SCRIPT
    chmod +x "$dir/$name.script"
    mkdir -p "$mnt/$name"
    local command=("$bin/deploy-agent" -addr "127.0.0.1:$port" -fp "$fingerprint" -key "$dir/server"
        -name "$name" -dir "$mnt/$name" -state "$mnt/$name.json" -script "$dir/$name.script"
        -poll "$poll" -log-format json)
    : >"$dir/$name.log"
    if [ "${1:-}" = once ]; then
        shift
        "${command[@]}" -once "$@" 2>"$dir/$name.log"
    else
        setsid "${command[@]}" "$@" 2>"$dir/$name.log" &
        agent_pid[$name]=$!
    fi
}

lines() { wc -l <"$dir/$1.log"; }

# logged NAME EVENT AFTER: the first line of the log with EVENT after its line AFTER.
logged() {
    awk -F '"' -v event="$2" -v after="$3" 'NR > after && $12 == event && !n++' "$dir/$1.log"
}

# await NAME EVENT AFTER: until the log has it. Anything that went wrong ends all. One process
# that mostly sleeps: starting some each time would take a core's third from what is measured.
await() {
    perl -MTime::HiRes=sleep -e '
        my ($path, $event, $after, $pid) = @ARGV;
        my $wrong = qr/"level":"error"|"event":"(?:spare_failed|spare_refused|script_missing)"/;
        open my $log, "<", $path or die "$path: $!\n";
        for (1 .. 30000) {
            while (defined(my $line = <$log>)) {
                if ($line =~ $wrong) { print STDERR $line; exit 1 }
                exit 0 if $. > $after && $line =~ /"event":"$event"/;
            }
            kill 0, $pid or exit 2;
            sleep 0.01;
            seek $log, 0, 1;
        }
        exit 3' "$dir/$1.log" "$2" "$3" "${agent_pid[$1]}" && return
    case $? in
        1) fail "the agent of $1 says this" ;;
        2) tail "$dir/$1.log" >&2; fail "the agent of $1 is gone" ;;
        *) tail "$dir/$1.log" >&2; fail "the agent of $1 did not say $2 in time" ;;
    esac
}

# Waits until an agent does no more than poll, so that it does not disturb others' runs.
quiet() {
    local before after
    before=$(cpu_of "${agent_pid[$1]}")
    for _ in {1..300}; do
        sleep "$pause"
        after=$(cpu_of "${agent_pid[$1]}")
        [ $((after - before)) -gt 15000000 ] || { sync -f "$mnt"; return 0; }
        before=$after
    done
    fail "the agent of $1 does not come to rest"
}

# Nanoseconds of CPU in a second of polling, for `bump_of` to take off.
measure_idle() {
    local before after
    before=$(cpu_of "${agent_pid[$1]}")
    sleep "$idle_seconds"
    after=$(cpu_of "${agent_pid[$1]}")
    idle[$1]=$(awk -v ns="$((after - before))" -v s="$idle_seconds" 'BEGIN { printf "%.0f", ns / s }')
}

# when NAME EVENT AFTER: seconds of the day at which it was logged.
when() {
    logged "$@" | awk -F '"' '{
        split(substr($4, 12, 15), t, ":"); printf "%.6f\n", t[1] * 3600 + t[2] * 60 + t[3] }'
}

# between A B: milliseconds, over midnight as well.
between() { awk -v a="$1" -v b="$2" 'BEGIN { d = b - a; if (d < 0) d += 86400; print d * 1000 }'; }

# field NAME EVENT FIELD AFTER: of the log.
field() { logged "$1" "$2" "$4" | sed -n "s/.*\"$3\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

# deploy NAME VERSION: makes the configuration's changing layer that version, and waits until
# it is deployed. Sets `mark`, the lines that the log had before.
deploy() {
    mark=$(lines "$1")
    operate changeconf -name "$1" -component "config-$tree" -version "$2"
    await "$1" switched "$mark"
}

# Sets a configuration of the tree and the first version of the changing layer up.
configure() { operate addconf -replace -name "$1" -layer "tree-$tree:0" -layer "config-$tree:0"; }

# A configuration's name: one of its own for each series.
named() { echo "$1-$kind-$tree-$work"; }
