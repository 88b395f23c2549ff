# shellcheck shell=bash disable=SC2154,SC2034
# The registry and the agents that scripts/bench-peers measures, and functions that read their logs.

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

# add COMPONENT VERSION BLOB: uploads a blob and adds it as a version.
add() {
    local digest
    digest=$(sha256sum "$3" | cut -c1-64)
    echo "put $3" | sftp "${client[@]}" -q -b - -P "$port" operator@127.0.0.1 >"$dir/out" 2>&1 ||
        { cat "$dir/out" >&2; fail "cannot upload $3"; }
    operate addver -name "$1" -version "$2" -hash "$digest"
}

# agent NAME FLAG...: starts an agent of the configuration NAME on the new filesystem. The agent runs in a
# separate session, so that Ctrl-C reaches only this script. With `once` as the first flag, the agent runs in
# this session, and the function waits until the agent has ended.
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

# logged NAME EVENT AFTER: prints the first log line with EVENT whose line number is greater than AFTER.
logged() {
    awk -F '"' -v event="$2" -v after="$3" 'NR > after && $12 == event && !n++' "$dir/$1.log"
}

# await NAME EVENT AFTER: waits until the log has EVENT after the line number AFTER. Any logged failure ends
# the script. The function runs one process that mostly sleeps. If it started processes repeatedly, they would
# take a third of a core from the measured programs.
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
        1) fail "the agent of $1 logged the line above" ;;
        2) tail "$dir/$1.log" >&2; fail "the agent of $1 has ended" ;;
        *) tail "$dir/$1.log" >&2; fail "the agent of $1 did not log $2 in time" ;;
    esac
}

# quiet NAME: waits until an agent only polls, so that it does not affect other runs.
quiet() {
    local before after
    before=$(cpu_of "${agent_pid[$1]}")
    for _ in {1..300}; do
        sleep "$pause"
        after=$(cpu_of "${agent_pid[$1]}")
        [ $((after - before)) -gt 15000000 ] || { sync -f "$mnt"; return 0; }
        before=$after
    done
    fail "the agent of $1 does not become idle"
}

# measure_idle NAME: measures the CPU time of one second of polling, in nanoseconds. `bump_of` subtracts this
# time.
measure_idle() {
    local before after
    before=$(cpu_of "${agent_pid[$1]}")
    sleep "$idle_seconds"
    after=$(cpu_of "${agent_pid[$1]}")
    idle[$1]=$(awk -v ns="$((after - before))" -v s="$idle_seconds" 'BEGIN { printf "%.0f", ns / s }')
}

# when NAME EVENT AFTER: prints the time at which EVENT was logged, in seconds of the day.
when() {
    logged "$@" | awk -F '"' '{
        split(substr($4, 12, 15), t, ":"); printf "%.6f\n", t[1] * 3600 + t[2] * 60 + t[3] }'
}

# between A B: prints the milliseconds from A to B, even if midnight is between them.
between() { awk -v a="$1" -v b="$2" 'BEGIN { d = b - a; if (d < 0) d += 86400; print d * 1000 }'; }

# field NAME EVENT FIELD AFTER: prints a field of a logged event.
field() { logged "$1" "$2" "$4" | sed -n "s/.*\"$3\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

# deploy NAME VERSION: sets the changing layer of the configuration to VERSION, and waits until it is
# deployed. Sets `mark` to the number of lines that the log had before the change.
deploy() {
    mark=$(lines "$1")
    operate changeconf -name "$1" -component "config-$tree" -version "$2"
    await "$1" switched "$mark"
}

# configure NAME: makes a configuration of the tree and of the first version of the changing layer.
configure() { operate addconf -replace -name "$1" -layer "tree-$tree:0" -layer "config-$tree:0"; }

# named NAME: prints the name of the configuration for this series of measurements.
named() { echo "$1-$kind-$tree-$work"; }
