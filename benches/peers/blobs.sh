# shellcheck shell=bash disable=SC2154,SC2034
# Makes the blobs of the trees that do not exist yet (see -b of scripts/bench-peers). The trees are on a separate
# filesystem, so that the machine's filesystem does not change.

versions=10
[ -z "$quick" ] || versions=4

# pack BLOB DIR [TAR-OPTION...]: packs the contents of DIR. The blob gets its name when it is complete.
pack() {
    local blob=$1 from=$2
    shift 2
    tar --numeric-owner --owner=0 --group=0 --sort=name "$@" -cf "$blob.part" -C "$from" .
    mv "$blob.part" "$blob"
}

make_blobs() {
    local tree
    for tree in ${trees//,/ }; do
        [ -e "$(tree_blob)" ] || { say "making the tree $tree"; make_tree; }
        make_configs
        [[ ",$works," != *,disk,* ]] || [ "$tree" != node ] || make_versions
    done
}

make_tree() {
    local source=$mnt/$tree files=50000 bytes=$((64 << 20))
    [ -z "$quick" ] || files=2000 bytes=$((2 << 20))
    if [ "$tree" = rootfs ]; then
        pack_rootfs
        return
    fi
    set_up ext4
    mkdir "$source"
    case $tree in
        node) "$parts/tree" node "$source" "$files" ;;
        large) "$parts/tree" large "$source" "$bytes" ;;
    esac
    pack "$(tree_blob)" "$source" -z
    take_away
}

# Packs the files of this machine's Debian packages, up to 14,000 entries or 400 MiB. The packages are sorted
# by priority and then by name, so the packages that every Debian system has come first.
pack_rootfs() {
    local entries=14000 blob
    blob=$(tree_blob)
    [ -z "$quick" ] || entries=1500
    dpkg-query -W -f '${Priority} ${Installed-Size} ${Package}\n' | LC_ALL=C sort -k3 |
        awk '{ rank = $1 == "required" ? 0 : $1 == "important" ? 1 : $1 == "standard" ? 2 : 3
               if ($2 < 60000) print rank, $3 }' | LC_ALL=C sort -s -n -k1,1 | cut -d' ' -f2 >"$dir/packages"
    while read -r package; do dpkg -L "$package" 2>/dev/null || true; done <"$dir/packages" |
        sed -n 's,^/\(bin\|sbin\|lib\|lib32\|lib64\)/,/usr/\1/,; s,^/\(.\),\1,p' |
        perl -ne 'chomp; next if $seen{$_}++; my @s = lstat "/$_" or next; next unless -f _ || -d _ || -l _;
            $n++; $bytes += $s[7] if -f _;
            last if $n > '"$entries"' || $bytes > 400 << 20;
            print "$_\n"' | LC_ALL=C sort >"$dir/list" || true
    [ -s "$dir/list" ] || fail "dpkg lists no files here, so there is no rootfs tree"
    tar --numeric-owner --no-recursion -C / -T "$dir/list" -czf "$blob.part"
    mv "$blob.part" "$blob"
}

# Makes the versions of the layer that changes: for the first deploy, a warm-up, the runs and a trace.
make_configs() {
    local folder=$blobs/$tree$quick.config version from=$dir/config
    mkdir -p "$folder"
    tar -tzf "$(tree_blob)" | sed -n 's,^\./,,; s,^\(..*\)/$,\1,p' | LC_ALL=C sort >"$dir/directories"
    [ -s "$dir/directories" ] || fail "$(tree_blob) has no directories"
    for version in $(seq 0 $((runs + 2))); do
        [ ! -e "$folder/$version.tar.gz" ] || continue
        rm -rf "$from"
        mkdir "$from"
        "$parts/tree" config "$from" "$version" <"$dir/directories"
        (cd "$from" && find . -type f | sed 's,^\./,,' | LC_ALL=C sort) >"$dir/list"
        tar --numeric-owner --owner=0 --group=0 -C "$from" -T "$dir/list" -czf "$folder/$version.part"
        mv "$folder/$version.part" "$folder/$version.tar.gz"
    done
    rm -rf "$from"
}

# Makes the versions of the tree. Only the unpacked contents matter here, so a faster gzip program packs them.
make_versions() {
    local folder=$blobs/$tree$quick.versions version
    [ ! -e "$folder/$versions.tar.gz" ] || return 0
    say "making $versions versions of the tree $tree"
    mkdir -p "$folder"
    set_up ext4
    mkdir "$mnt/$tree"
    tar -xzf "$(tree_blob)" -C "$mnt/$tree"
    for version in $(seq "$versions"); do
        [ "$version" = 1 ] || "$parts/tree" change "$mnt/$tree" "$version"
        pack "$folder/$version.tar.gz" "$mnt/$tree" -I 'pigz -4'
    done
    take_away
}
