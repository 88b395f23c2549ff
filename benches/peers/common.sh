# shellcheck shell=bash disable=SC2154,SC2034
# Functions for all measurements of scripts/bench-peers: filesystems, clocks and results.

# set_up KIND: makes a new filesystem in a sparse file, and mounts it.
set_up() {
    local image=$dir/image size=12G
    [ -z "$quick" ] || size=1G
    truncate -s "$size" "$image"
    case $1 in
        ext4) mkfs.ext4 -q -F -i 8192 -E lazy_itable_init=0,lazy_journal_init=0 "$image" ;;
        xfs) mkfs.xfs -q -m reflink=1 "$image" ;;
        btrfs) mkfs.btrfs -q "$image" >/dev/null ;;
    esac
    mount -o loop "$image" "$mnt"
}

# Unmounts and removes the filesystem that `set_up` made, if there is one.
take_away() {
    local try
    if mountpoint -q "$mnt"; then
        for try in {1..50}; do
            umount "$mnt" 2>/dev/null && break
            [ "$try" -lt 50 ] || { say "cannot unmount $mnt"; umount "$mnt"; return 1; }
            sleep 0.2
        done
    fi
    rm -f "$dir/image"
}

# Syncs everything that earlier runs wrote, and waits until the device is idle. XFS and btrfs continue to
# write after a sync.
settle() {
    local device before='' now
    sync -f "$mnt"
    device=/sys/block/$(basename "$(findmnt -n -o SOURCE "$mnt")")/stat
    for _ in {1..40}; do
        sleep 0.5
        now=$(cat "$device")
        [ "$now" != "$before" ] || return 0
        before=$now
    done
}

# record WHO COLUMN VALUE: records one value of this measurement, in milliseconds or in the unit of the column.
# Warm-up runs are not recorded.
record() {
    [ "${run:-1}" -lt 1 ] ||
        printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$kind" "$tree" "$work" "$1" "$2" "$3" >>"$results"
}

# timed COMMAND...: runs a command, and sets `wall` and `cpu` to its times in milliseconds. If the command
# fails, the script fails, too.
timed() {
    local TIMEFORMAT='%R %U %S' real user sys
    { time "$@" >"$dir/out" 2>&1; } 2>"$dir/time" ||
        { tail -n 5 "$dir/out" >&2; fail "$* failed"; }
    read -r real user sys <"$dir/time"
    wall=$(awk -v a="$real" 'BEGIN { print a * 1000 }')
    cpu=$(awk -v a="$user" -v b="$sys" 'BEGIN { print (a + b) * 1000 }')
}

# measure WHO COMMAND...: records the wall time, the CPU time, and the time of a sync afterwards.
measure() {
    local who=$1 first
    shift
    timed "$@"
    record "$who" wall "$wall"
    record "$who" cpu "$cpu"
    first=$wall
    timed sync -f "$mnt"
    record "$who" sync "$wall"
    record "$who" total "$(awk -v a="$first" -v b="$wall" 'BEGIN { print a + b }')"
}

# Prints the number of bytes that are in use on the filesystem.
used() {
    sync -f "$mnt"
    [ "$kind" != btrfs ] || btrfs filesystem sync "$mnt" >/dev/null
    df -B1 --output=used "$mnt" | tail -1
}

# Prints the CPU time of a process in nanoseconds, including all threads that it ever had.
cpu_of() {
    perl -MTime::HiRes=clock_gettime -e 'printf "%.0f\n", 1e9 * clock_gettime((-$ARGV[0] - 1) * 8 + 2)' "$1"
}

# config_blob N: the path of version N of the layer that changes.
config_blob() { echo "$blobs/$tree$quick.config/$1.tar.gz"; }
tree_blob() { echo "$blobs/$tree$quick.tar.gz"; }

# check ROOT BLOB: checks that the root has the bytes of the layer that changed.
check() {
    local is should
    should=$(tar -xzOf "$2" | sha256sum)
    is=$(tar -tzf "$2" | (cd "$1" && xargs -d '\n' cat) | sha256sum)
    [ "$is" = "$should" ] || fail "$1 does not have the files of $2"
}

# entries ROOT: counts the entries of a root.
entries() { find "$1" | wc -l; }

# Prints the versions of the tools, which are the first line of the results.
describe() {
    echo "Linux $(uname -r), $(nproc) cores, $(deploy_version)," \
        "GNU tar $(tar --version | awk 'NR == 1 { print $NF }')," \
        "coreutils $(cp --version | awk 'NR == 1 { print $NF }')," \
        "rsync $(rsync --version | awk 'NR == 1 { print $3 }')," \
        "ostree $(ostree --version | awk '/Version/ { gsub(/[^0-9.]/, ""); print }')," \
        "bsdtar $(bsdtar --version | awk '{ print $2 }')," \
        "pigz $(pigz --version 2>&1 | awk '{ print $2 }')," \
        "isal $(dpkg-query -W -f '${Version}' isal)," \
        "btrfs-progs $(dpkg-query -W -f '${Version}' btrfs-progs)," \
        "xfsprogs $(dpkg-query -W -f '${Version}' xfsprogs)"
    echo
    echo "Median of $runs, interleaved; peers write with their usual options, and do not sync."
}
deploy_version() { "$bin/deploy-agent" --version; }

# table TITLE AWK-VARIABLES...: prints the values of this measurement as a table.
table() {
    local title=$1 variables=()
    shift
    for variable in "$@"; do variables+=(-v "$variable"); done
    printf '\n%s\n\n' "$title"
    awk -F '\t' -v k="$kind" -v t="$tree" -v w="$work" '$1 == k && $2 == t && $3 == w' \
        "$results" | awk -F '\t' "${variables[@]}" -f "$parts/table.awk"
}

# Prints the usual spelling of the filesystem's name.
filesystem() { case $kind in xfs) echo XFS ;; *) echo "$kind" ;; esac; }
