# shellcheck shell=bash disable=SC2154,SC2034
# Measures the first root: the blobs are in the cache, and nothing is extracted. The agent's time is from the
# event downloaded to root_ready. In this time, the agent checks the blobs, extracts them, and builds and
# syncs a root. After that, the script measures deploy-agent unpack and the peers. CPU times are those of
# whole processes.

work_cold() {
    local run who base=$mnt/cold blobs_of name
    blobs_of=("$(tree_blob)" "$(config_blob 0)")
    name=$(named cold)
    configure "$name"
    for run in $(seq $((1 - warm)) "$runs"); do
        cat "${blobs_of[@]}" >/dev/null
        cold_agent
        for who in unpack tar bsdtar pigz igzip; do
            [ "$who" = unpack ] || mkdir "$base"
            measure "${cold_title[$who]}" "cold_$who"
            check "$base" "${blobs_of[1]}"
            rm -rf "$base"
            sync -f "$mnt"
        done
    done
}

declare -A cold_title=([unpack]="\`deploy-agent unpack\`" [tar]="\`tar xzf\`" [bsdtar]="\`bsdtar -xpf\`"
    [pigz]="\`pigz -dc\`, \`tar x\`" [igzip]="\`igzip -dc\`, \`tar x\`")

cold_agent() {
    local blob first
    mkdir -p "$mnt/$name/cache"
    for blob in "${blobs_of[@]}"; do cp "$blob" "$mnt/$name/cache/$(sha256sum "$blob" | cut -c1-64)"; done
    sync -f "$mnt"
    timed agent "$name" once -no-spare
    grep -q '"event":"switched"' "$dir/$name.log" || { cat "$dir/$name.log" >&2; fail "nothing was deployed"; }
    [ "$(field "$name" downloaded bytes 0)" = 0 ] || fail "the blobs were not found in the cache"
    record agent cpu "$cpu"
    first=$(between "$(when "$name" downloaded 0)" "$(when "$name" root_ready 0)")
    record agent wall "$first"
    record agent extract "$(between "$(when "$name" downloaded 0)" "$(when "$name" extracted 0)")"
    record agent root "$(between "$(when "$name" extracted 0)" "$(when "$name" root_ready 0)")"
    timed sync -f "$mnt"
    record agent sync "$wall"
    record agent total "$(awk -v a="$first" -v b="$wall" 'BEGIN { print a + b }')"
    check "$(field "$name" root_ready path 0)" "${blobs_of[1]}"
    rm -rf "${mnt:?}/$name" "$mnt/$name.json"
    sync -f "$mnt"
}

cold_unpack() { "$bin/deploy-agent" unpack "${blobs_of[@]}" -into "$base"; }
each_layer() {
    local blob
    for blob in "${blobs_of[@]}"; do "$1" "$blob" || return; done
}
by_tar() { tar -xzf "$1" -C "$base"; }
by_bsdtar() { bsdtar -xpf "$1" -C "$base"; }
by_pigz() { pigz -dc "$1" | tar -x -C "$base"; }
by_igzip() { igzip -dc "$1" | tar -x -C "$base"; }
cold_tar() { each_layer by_tar; }
cold_bsdtar() { each_layer by_bsdtar; }
cold_pigz() { each_layer by_pigz; }
cold_igzip() { each_layer by_igzip; }

table_cold() {
    table "From blobs to a root, $tree, $(filesystem): seconds; how many times as long as the agent" \
        unit=s columns=wall,cpu,sync,total of=wall,total "to=agent;agent" \
        heads="wall,CPU,\`sync -f\` after,both,ratio,ratio synced"
    table "The steps of the agent (s)" unit=s columns=extract,root only=agent heads="extract,root"
}
