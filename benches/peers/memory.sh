# shellcheck shell=bash disable=SC2154,SC2034
# Measures the peak memory of unpacking a tree, of deploying the tree, and of bsdtar as a peer. The measurement
# `bump` includes the memory of agents during bumps. scripts/memory measures a file of 1 GiB and a million files.

work_memory() {
    local run who base=$mnt/cold blobs_of name
    blobs_of=("$(tree_blob)" "$(config_blob 0)")
    name=$(named memory)
    configure "$name"
    for run in $(seq "$runs"); do
        peak "\`deploy-agent unpack\`" "$bin/deploy-agent" unpack "${blobs_of[@]}" -into "$base"
        rm -rf "$base"
        agent "$name" -no-spare
        await "$name" switched 0
        hwm "$name" "agent, first deploy"
        stop_agents
        rm -rf "${mnt:?}/$name" "$mnt/$name.json"
        mkdir "$base"
        peak "\`bsdtar -xpf\`" bsdtar -xpf "${blobs_of[0]}" -C "$base"
        rm -rf "$base"
    done
}

# peak WHO COMMAND...: runs a command, and records its peak memory.
peak() {
    local who=$1
    shift
    /usr/bin/time -o "$dir/peak" -f %M "$@" >"$dir/out" 2>&1 || { cat "$dir/out" >&2; fail "$* failed"; }
    record "$who" peak "$(awk '{ print $1 / 1024 }' "$dir/peak")"
}

table_memory() {
    table "Peak memory, $tree, $(filesystem): MiB" unit=ms columns=peak heads=MiB
}
