# shellcheck shell=bash disable=SC2154,SC2034
# Ten versions of the node tree, 1 % of the files changed in each, all of them kept and one
# more as a spare. Bytes are what the filesystem has in use more than before: that sees
# sharing by hardlink and by reflink alike, and the filesystem's own structures.

work_disk() {
    local name before one version folder=$blobs/$tree$quick.versions mark
    [ "$tree" = node ] || { say "disk is of the node tree only, not of $tree"; return; }
    before=$(used)
    mkdir "$mnt/copy"
    tar -xzf "$folder/1.tar.gz" -C "$mnt/copy"
    one=$(($(used) - before))
    for version in $(seq "$versions"); do
        [ "$disk_uploaded" ] || add disk "$version" "$folder/$version.tar.gz"
    done
    disk_uploaded=1
    name=$(named disk)
    operate addconf -name "$name" -layer disk:1
    before=$(used)
    agent "$name" -keep-roots "$versions"
    await "$name" switched 0
    await "$name" spare_ready 0
    for version in $(seq 2 "$versions"); do
        mark=$(lines "$name")
        operate changeconf -name "$name" -component disk -version "$version"
        await "$name" switched "$mark"
        await "$name" spare_ready "$mark"
    done
    quiet "$name"
    [ "$(find "$mnt/$name/unpacked" -mindepth 1 -maxdepth 1 -type d -name '[0-9a-f]*' | wc -l)" = "$versions" ] ||
        fail "the agent did not keep $versions roots"
    record "one copy, \`tar xzf\`" size "$((one >> 20))"
    record "$versions copies of it" size "$((one * versions >> 20))"
    record "agent, $versions roots and a spare" size "$((($(used) - before) >> 20))"
    record "what \`du -s\` tells of it" size "$(du -s --block-size=1M "$mnt/$name" | cut -f1)"
}
disk_uploaded=

table_disk() {
    [ "$tree" = node ] || return 0
    table "Disk of $versions versions of $tree, $(filesystem): MiB; times one copy" unit=none \
        columns=size of=size "to=one copy, \`tar xzf\`" heads="MiB,copies"
}
