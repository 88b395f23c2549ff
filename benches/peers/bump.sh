# shellcheck shell=bash disable=SC2154,SC2034
# Measures a deploy that changes a layer of 20 small files. The agent's time is from its log: from the event
# update_available to script_started, including the download of the layer and all syncs. The agent's CPU time
# is the time of its process from the start of the change until the script begins, minus the time of the polls
# before the agent saw the change. The peers already have the layer's blob, write the new root from the data
# that they have, and do not sync.

work_bump() {
    local run spare bare peers old=$mnt/peers/old all
    spare=$(named spare) bare=$(named bare)
    start_agent "$spare"
    start_agent "$bare" -no-spare
    make_old
    peers=(tar cp_al)
    [ "$kind" = ext4 ] || peers+=(cp_reflink)
    peers+=(rsync ostree)
    [ "$kind" != btrfs ] || peers+=(snapshot)
    for run in $(seq $((1 - warm)) "$runs"); do
        bump_of "$spare" "agent, spare"
        bump_of "$bare" "agent, no spare"
        for peer in "${peers[@]}"; do bump_by "$peer"; done
    done
    hwm "$spare" "agent, spare"
    hwm "$bare" "agent, no spare"
}

# start_agent NAME FLAG...: starts an agent, and waits until the first version is deployed.
start_agent() {
    configure "$1"
    agent "$@"
    await "$1" switched 0
    [[ " $* " == *" -no-spare "* ]] || await "$1" spare_ready 0
    quiet "$1"
    measure_idle "$1"
}

hwm() { record "$2" peak "$(awk '/VmHWM/ { print $2 / 1024 }' "/proc/${agent_pid[$1]}/status")"; }

# bump_of NAME WHO
bump_of() {
    local name=$1 who=$2 before began seen ready started root steps
    settle
    began=$(date -u +%s%N)
    before=$(cpu_of "${agent_pid[$name]}")
    deploy "$name" $((run + 1))
    seen=$(when "$name" update_available "$mark")
    ready=$(when "$name" root_ready "$mark")
    started=$(when "$name" script_started "$mark")
    record "$who" wall "$(between "$seen" "$started")"
    steps=("$seen" "$(when "$name" downloaded "$mark")" "$(when "$name" extracted "$mark")" "$ready" "$started")
    for n in 0 1 2 3; do record "$who" "step$n" "$(between "${steps[n]}" "${steps[n + 1]}")"; done
    record "$who" cpu "$(awk -v a="$before" -v b="$(cat "$dir/$name.cpu")" -v idle="${idle[$name]}" \
        -v waited="$(between "$(awk -v ns="$began" 'BEGIN { printf "%.6f", ns / 1e9 % 86400 }')" "$seen")" \
        'BEGIN { print (b - a) / 1e6 - idle / 1e6 * waited / 1000 }')"
    root=$(field "$name" root_ready path "$mark")
    check "$root" "$(config_blob $((run + 1)))"
    [ -z "$all" ] || [ "$(entries "$root")" = "$all" ] || fail "$root does not have as many entries as tar makes"
    case $who in
        *no*) ;;
        *)
            [ "$(field "$name" root_ready from_spare "$mark")" = true ] || fail "no spare was used"
            await "$name" spare_ready "$mark"
            ;;
    esac
    quiet "$name"
}

# Makes the data from which the peers start: the unpacked tree with the first version of the layer, and an
# ostree repository with a commit of the tree.
make_old() {
    local repo
    mkdir "$mnt/peers"
    peer_tar "$old" "$(config_blob 0)"
    if [ "$kind" = btrfs ]; then
        # The subvolume has its own copy, because hardlinks cannot cross subvolumes.
        btrfs subvolume create "$mnt/peers/subvolume" >/dev/null
        cp -a --reflink=always "$old/." "$mnt/peers/subvolume/"
    fi
    all=$(entries "$old")
    repo=$mnt/peers/repo
    ostree init --repo="$repo" --mode=bare
    ostree_commit tree --tree="dir=$old"
    sync -f "$mnt"
}

ostree_commit() {
    ostree commit --repo="$mnt/peers/repo" -b "$1" --fsync=false "$2" --tar-autocreate-parents >"$dir/out" 2>&1 ||
        { cat "$dir/out" >&2; fail "ostree commit failed"; }
}

peer_tar() { mkdir "$1" && tar -xzf "$(tree_blob)" -C "$1" && tar -xzf "$2" -C "$1"; }
overlay() { tar --unlink-first -xzf "$2" -C "$1"; }
peer_cp_al() { cp -al "$old" "$1" && overlay "$@"; }
peer_cp_reflink() { cp -a --reflink=always "$old" "$1" && overlay "$@"; }
peer_rsync() { rsync -a --link-dest="$old" "$old/" "$1/" && overlay "$@"; }
peer_ostree() {
    ostree checkout --repo="$mnt/peers/repo" -H tree "$1" &&
        ostree checkout --repo="$mnt/peers/repo" -H --union config "$1"
}
peer_snapshot() { btrfs subvolume snapshot "$mnt/peers/subvolume" "$1" && overlay "$@"; }

declare -A title=([tar]="\`tar xzf\` of both layers" [cp_al]="\`cp -al\`, \`tar\` of the layer"
    [cp_reflink]="\`cp -a --reflink=always\`, \`tar\`" [rsync]="\`rsync -a --link-dest\`, \`tar\`"
    [ostree]="\`ostree checkout -H\`, \`--union\`" [snapshot]="btrfs snapshot, \`tar\`")

# bump_by PEER
bump_by() {
    # The script does not remove the new root. Before ext4 uses an inode, it examines every inode that was
    # freed in the last minutes. Therefore, a removal would slow down the next run that creates files.
    local new=$mnt/peers/$1.$run blob
    blob=$(config_blob $((run + 1)))
    # The repository gets the layer before the measured checkout. An agent has no such advantage.
    [ "$1" != ostree ] || ostree_commit config "--tree=tar=$blob"
    sync -f "$mnt"
    measure "${title[$1]}" "peer_$1" "$new" "$blob"
    check "$new" "$blob"
    [ "$(entries "$new")" = "$all" ] || fail "$1 did not make as many entries as tar"
    sync -f "$mnt"
}

table_bump() {
    table "Bump of $tree, $(filesystem): milliseconds; how many times as long as the agent" unit=ms \
        columns=wall,cpu,sync of=wall,wall "to=agent, spare;agent, no spare" \
        heads="wall,CPU,\`sync -f\` after,to spare,to no spare"
    table "The steps of the agent (ms), and its peak memory (MiB)" unit=ms \
        columns=step0,step1,step2,step3,peak "only=agent" heads="download,extract,root,script,memory"
}
