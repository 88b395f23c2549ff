# The checks of imports. scripts/images sources this file. shellcheck shell=bash

# Starts an empty registry in place of the last registry.
fresh() {
    [ -z "$registry" ] || { kill "$registry"; wait "$registry" 2>/dev/null || true; }
    rm -rf registry registry.log
    mkdir registry
    deploy-registry -addr 127.0.0.1:0 -dir registry -opauth operator.pub -srvauth server.pub \
        2>registry.log &
    registry=$!
    until grep -qs 'listening on' registry.log; do
        kill -0 "$registry" 2>/dev/null || { cat registry.log >&2; exit 1; }
        sleep 0.01
    done
    port=$(sed -n 's/.*listening on .*:\([0-9]*\).*/\1/p' registry.log)
    at=(-addr "127.0.0.1:$port" -fp "$(grep -o 'SHA256:[A-Za-z0-9+/=]*' registry.log | head -1)")
}
import() { deploy-from-docker "${at[@]}" -key operator "$@"; }
ctl() { deployctl "${at[@]}" -key operator -user me "$@"; }
# Prints the configuration app without its times.
shown() { ctl showconf -name app -json | grep -v '"Mtime"\|"Ctime"\|"Created"'; }
# Prints the names of all configurations and components, and the history of app.
everything() {
    ctl configurations -json
    ctl components -json
    ctl history -name app -json
}

deploy() {
    rm -rf agent
    mkdir agent
    deploy-agent "${at[@]}" -key server -name app -dir agent -script '' -state agent/state.json \
        -no-spare -once 2>agent.log || { cat agent.log >&2; fail "$1: not deployed"; }
    root=$(echo agent/unpacked/????????????????????????????????????????????????????????????????)
    [ -d "$root" ] || fail "$1: the agent made no root"
}

# The times of two directories are not compared with umoci's. umoci does not restore the time of the root after the
# last change. For late/opaque/deep, umoci first sets the time, and then changes it by removing the entries that an
# opaque directory hides.
umoci_loses=(-t "" -t late/opaque/deep)
# Two kinds of metadata are not compared with GNU tar's: the times of all directories, because later archives may have
# entries in a directory; and the attributes of etc/deep, because a later entry gives it fewer attributes.
tar_loses=("${umoci_loses[@]}" -d -x etc/deep)
same_tree() {
    local what=$1
    shift
    "$parts/tree" "${@:3}" "$1" >expected.txt
    "$parts/tree" "${@:3}" "$2" >found.txt
    [ -s expected.txt ] || fail "$what: nothing to compare"
    diff expected.txt found.txt >&2 || fail "$what: not the expected tree"
}

every_format() {
    local image=$1 file first=
    for file in "$image".*; do
        [ "$file" != "$image.bundle" ] || continue
        fresh
        import -name app "$file" >import.log 2>&1 || { cat import.log >&2; fail "$file: not imported"; }
        shown >now.txt
        if [ -z "$first" ]; then first=$file; mv now.txt "$image.shown"; else
            diff "$image.shown" now.txt >&2 || fail "$file: not the configuration of $first"
        fi
        deploy "$file"
        same_tree "$file" "$image.bundle/rootfs" "$root" "${umoci_loses[@]}"
        # The same archive is imported through a pipe.
        [ ! -f "$file" ] || {
            cat "$file" | import -name piped >import.log 2>&1 || { cat import.log >&2; fail "$file: refused through a pipe"; }
            [ "$(ctl showconf -name piped -json | grep '"Hash"' | head -1)" = "$(grep '"Hash"' "$image.shown" | head -1)" ] ||
                fail "$file: the import through a pipe gave another configuration"
        }
    done
    part "$image: $(grep -c '"Version"' "$image.shown") layers, the same in $(ls -d "$image".* | grep -cv 'bundle\|shown') formats"
}

# Checks the layers as Go agents use them: all layers are unpacked in order into one directory.
tar_in_order() {
    local image=$1 layer
    rm -rf into into-root
    deploy-from-docker -into into -name app "$image.gzip.tar" >import.log 2>&1 || { cat import.log >&2; fail "$image: the import with -into failed"; }
    mkdir into-root
    while read -r layer; do
        tar -xzf "into/$layer" --xattrs --xattrs-include='*' --numeric-owner -p -C into-root --warning=no-timestamp
    done <into/layers
    same_tree "$image by GNU tar" "$image.bundle/rootfs" into-root "${tar_loses[@]}"
}

import_twice() {
    fresh
    import -name app hard.gzip.tar >import.log 2>&1
    local before bytes
    before=$(everything)
    import -name app hard.legacy.tar >import.log 2>&1 || fail "the second import failed"
    [ "$(everything)" = "$before" ] || fail "the second import changed the registry"
    cat import.log
}

dry_run() {
    fresh
    local before
    before=$(everything 2>/dev/null || true; ls registry/files registry/uploads)
    import -name app -dry-run hard.gzip.tar >import.log 2>&1 || fail "the import with -dry-run failed"
    [ "$(everything 2>/dev/null || true; ls registry/files registry/uploads)" = "$before" ] ||
        fail "the import with -dry-run changed the registry"
    cat import.log
}

one_of_several() {
    "$parts/save" legacy several.tar layouts:hard layouts:built
    "$parts/save" engine several-engine.tar layouts:hard layouts:built
    local file image
    for file in several.tar several-engine.tar; do
        for image in hard built; do
            fresh
            ! import -name app "$file" >import.log 2>&1 || fail "$file: an image was chosen without -image"
            import -name app -image "$image:latest" "$file" >import.log 2>&1 || { cat import.log >&2; fail "$file: $image was not imported"; }
            shown | diff "$image.shown" - >&2 || fail "$file: the configuration is not that of $image"
        done
    done
    # The layout that umoci made has all images.
    fresh
    import -name app -image built layouts >import.log 2>&1 || { cat import.log >&2; fail "layouts: the image built was not imported"; }
    shown | diff built.shown - >&2 || fail "layouts: the configuration is not that of the image built"
}

platforms() {
    umoci tag --image layouts:built arm
    umoci config --image layouts:arm --architecture arm64 --os linux
    "$parts/save" containerd both.tar layouts:hard layouts:arm
    fresh
    import -name app -platform linux/arm64 both.tar >import.log 2>&1 || { cat import.log >&2; fail "-platform linux/arm64: not imported"; }
    shown | diff built.shown - >&2 || fail "-platform: not the image for arm64"
    ! import -name app -platform linux/s390x both.tar >import.log 2>&1 || fail "-platform: accepted an unlisted platform"
    ! import -name app -platform linux/arm/v7 both.tar >import.log 2>&1 || fail "-platform: accepted an unsaved platform"
}

more_layers() {
    fresh
    mkdir -p settings/etc settings/.deploy
    echo "of this fleet" >settings/etc/settings
    tar -czf settings.tar.gz -C settings etc/settings
    ctl addver -name settings -version v1 -file settings.tar.gz
    import -name app -layer settings:v1 -image-config hard.gzip.tar >import.log 2>&1 ||
        { cat import.log >&2; fail "-layer: not imported"; }
    [ "$(ctl showconf -name app -json | grep '"Name"\|"Version"' | tail -2 | tr -d ' \t\n",')" = \
        "$(printf 'Name:settingsVersion:v1')" ] || { ctl showconf -name app; fail "-layer: the layer is not last"; }
    deploy "-layer"
    [ "$(cat "$root/etc/settings")" = "of this fleet" ] || fail "-layer: the file of the layer is missing"
    python3 - "$root/.deploy/image.json" <<'PY'
import json, sys
with open(sys.argv[1]) as file:
    text = file.read()
print("images: .deploy/image.json:", " ".join(text.split()))
for word in ("/bin/tool", "-v", "A=b", "7:8", "/opt/app"):
    assert word in text, word
json.loads(text)
PY
}

of_zstd() {
    fresh
    import -name app -compress zstd hard.legacy.tar >import.log 2>&1 || { cat import.log >&2; fail "-compress zstd: not imported"; }
    deploy "-compress zstd"
    same_tree "-compress zstd" hard.bundle/rootfs "$root" "${umoci_loses[@]}"
    local file
    for file in registry/files/*; do
        [ "$(head -c 4 "$file" | od -An -tx1 | tr -d ' ')" = 28b52ffd ] || fail "$file is not zstd"
    done
}

over_ssh() {
    fresh
    local by=(ssh -F /dev/null -i operator -o IdentitiesOnly=yes -o StrictHostKeyChecking=no
        -o "UserKnownHostsFile=$work/known_hosts" -o LogLevel=ERROR -p "$port" 127.0.0.1)
    "${by[@]}" import -name app <hard.legacy.tar >import.log 2>&1 || { cat import.log >&2; fail "over ssh: not imported"; }
    shown | diff hard.shown - >&2 || fail "over ssh: the import gave another configuration"
    # If the input ends in the middle of the image, nothing of the image is imported.
    local before
    before=$(everything)
    head -c 1000000 hard.legacy.tar | "${by[@]}" import -name app >import.log 2>&1 &&
        fail "over ssh: the import of half an image succeeded"
    [ "$(everything)" = "$before" ] || fail "over ssh: the import of half an image changed the registry"
}

killed() {
    fresh
    import -name app built.legacy.tar >import.log 2>&1
    local before now pid
    before=$(everything)
    # An import is killed while it waits for the rest of the image in the pipe.
    mkfifo pipe
    import -name app <pipe >import.log 2>&1 &
    pid=$!
    exec 9>pipe
    head -c 2000000 hard.legacy.tar >&9
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
    exec 9>&-
    now=$(everything)
    [ "$now" = "$before" ] || fail "killed: the import of half an image changed the registry"
    # Another import is killed while it sends.
    import -name app hard.legacy.tar >import.log 2>&1 &
    pid=$!
    until [ -n "$(ls registry/uploads)" ] || ! kill -0 "$pid" 2>/dev/null; do :; done
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    now=$(everything)
    [ "$now" = "$before" ] || [ "$(shown)" = "$(cat hard.shown)" ] || fail "killed: a part of the image is imported"
    import -name app hard.legacy.tar >import.log 2>&1 || { cat import.log >&2; fail "killed: the next import failed"; }
    shown | diff hard.shown - >&2 || fail "killed: the next import gave another configuration"
    [ -z "$(ls tmp)" ] || fail "killed: $(ls tmp) is left"
}
