# shellcheck shell=bash disable=SC2154,SC2034
# Measures the disk space of ten versions of the node tree. 1 % of the files change in each version, and the
# cache has the layers of all versions. The agent keeps either its default number of roots, or a root of each
# version. The bytes are the increase of the space in use on the filesystem. Therefore, data that hardlinks or
# reflinks share counts once, and the filesystem's own structures count, too.

work_disk() {
    local before one version folder=$blobs/$tree$quick.versions
    [ "$tree" = node ] || { say "the measurement disk needs the tree node, not $tree"; return; }
    before=$(used)
    mkdir "$mnt/copy"
    tar -xzf "$folder/1.tar.gz" -C "$mnt/copy"
    one=$(($(used) - before))
    for version in $(seq "$versions"); do
        [ "$disk_uploaded" ] || add disk "$version" "$folder/$version.tar.gz"
    done
    disk_uploaded=1
    agent_disk "agent, default settings" "default"
    agent_disk "agent, $versions roots" "all" -keep-roots "$versions"
    record "one copy, \`tar xzf\`" size "$((one >> 20))"
    record "$versions copies of it" size "$((one * versions >> 20))"
}

# agent_disk WHO NAME FLAG...: deploys all versions one after another, and records the disk space.
agent_disk() {
    local who=$1 name before version mark roots
    name=$(named "disk-$2")
    operate addconf -replace -name "$name" -layer disk:1
    before=$(used)
    agent "$name" "${@:3}"
    await "$name" switched 0
    await "$name" spare_ready 0
    quiet "$name"
    [ "$2" = all ] || record "agent, one version and a spare" size "$((($(used) - before) >> 20))"
    for version in $(seq 2 "$versions"); do
        mark=$(lines "$name")
        operate changeconf -name "$name" -component disk -version "$version"
        await "$name" switched "$mark"
        await "$name" spare_ready "$mark"
    done
    quiet "$name"
    roots=$(find "$mnt/$name/unpacked" -mindepth 1 -maxdepth 1 -type d -name '[0-9a-f]*' | wc -l)
    layers=$(find "$mnt/$name/layers" -type f | wc -l)
    [ "$layers" = "$versions" ] || fail "$layers layers are cached, not $versions"
    record "$who: $roots roots and a spare" size "$((($(used) - before) >> 20))"
    [ "$kind" != ext4 ] || record "$who: size by \`du -s\`" size "$(du -s --block-size=1M "$mnt/$name" | cut -f1)"
    stop_agents
}
disk_uploaded=

table_disk() {
    [ "$tree" = node ] || return 0
    table "Disk of $versions versions of $tree, $(filesystem): MiB; times one copy" unit=none \
        columns=size of=size,size "to=one copy, \`tar xzf\`;agent, one version and a spare" \
        heads="MiB,copies,agent's one"
}
