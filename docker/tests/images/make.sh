# Makes images: first as tags of the OCI directory `layouts`, and then in all formats. scripts/images sources
# this file. shellcheck shell=bash

# Makes an image of layers that are composed by hand and contain every kind of entry and change.
make_hard() {
    umoci init --layout layouts
    umoci new --image layouts:hard
    mkdir layers
    "$parts/layers" layers
    local layer
    for layer in layers/*.tar; do
        [ "$layer" != layers/11.tar ] || continue
        umoci raw add-layer --image layouts:hard "$layer"
    done
    umoci config --image layouts:hard --config.entrypoint /bin/tool --config.entrypoint -v \
        --config.env A=b --config.user 7:8 --config.workingdir /opt/app
}

# Adds to the hard image one layer that GNU tar unpacks differently. The result is made in only one format.
make_beyond() {
    umoci tag --image layouts:hard beyond
    umoci raw add-layer --image layouts:beyond layers/11.tar
    skopeo copy -q oci:layouts:beyond oci-archive:beyond.gzip.tar:beyond
}

# Makes an image of layers that umoci makes from the changes in a directory.
make_changed() {
    umoci new --image layouts:changed
    umoci unpack --image layouts:changed changing
    local root=changing/rootfs
    tar -xf layers/01.tar -p --warning=no-timestamp --numeric-owner --xattrs --xattrs-include='*' -C "$root"
    umoci repack --refresh-bundle --image layouts:changed changing
    rm -r "$root/gone" "$root/links/first" "$root/flip/dir" "$root/big" "$root/sparse"
    rm "$root/flip/link" "$root/flip/tofile" "$root/flip/file"
    echo "was a directory" >"$root/flip/dir"
    mkdir "$root/flip/link" "$root/flip/file"
    echo "below" >"$root/flip/link/below"
    ln -s ../etc "$root/flip/tofile"
    chmod 700 "$root/etc/deep"
    chown 5:6 "$root/meta/file"
    touch -h -d '1999-12-31 23:59:59.123456789Z' "$root/etc/link"
    setfattr -n user.new -v new "$root/meta/file"
    setfattr -x user.comment "$root/etc/passwd"
    umoci repack --refresh-bundle --image layouts:changed changing
    rm -r "$root/flip/link" "$root/flip/dir"
    ln -s tolink "$root/flip/link"
    mkdir "$root/flip/dir"
    ln "$root/empty" "$root/links/to-empty"
    umoci repack --refresh-bundle --image layouts:changed changing
    mkdir inserted
    echo "in place of all there was" >inserted/alone
    umoci insert --image layouts:changed --opaque inserted /opt/app
    umoci insert --image layouts:changed --whiteout /links/second
    umoci insert --image layouts:changed --whiteout /name
}

# Makes an image of layers that buildah commits. buildah also writes the image as a docker-archive and as an
# oci-archive.
make_built() {
    local own=(buildah --root "$work/buildah/store" --runroot "$work/buildah/run" --storage-driver vfs)
    local at root step
    mkdir context
    tar -xf layers/01.tar -p --warning=no-timestamp --numeric-owner --xattrs --xattrs-include='*' -C context
    at=$("${own[@]}" from scratch)
    "${own[@]}" copy --quiet "$at" context /
    "${own[@]}" config --env A=b --entrypoint '["/bin/tool", "-v"]' --user 7:8 --workingdir /opt/app "$at"
    "${own[@]}" commit --quiet "$at" step0 >/dev/null
    for step in 1 2 3; do
        at=$("${own[@]}" from "step$((step - 1))")
        root=$("${own[@]}" mount "$at")
        "build_$step" "$root"
        "${own[@]}" umount "$at" >/dev/null
        "${own[@]}" commit --quiet "$at" "step$step" >/dev/null
    done
    "${own[@]}" push --quiet step3 "oci:layouts:built"
    "${own[@]}" push --quiet step3 "oci-archive:built.buildah-oci.tar:built"
    "${own[@]}" push --quiet step3 "docker-archive:built.buildah-docker.tar:built:latest"
    rm -rf buildah
}
build_1() {
    rm -r "$1/gone" "$1/opt/app" "$1/links/first" "$1/sparse"
    mkdir "$1/opt/app"
    echo anew >"$1/opt/app/two"
    rm -r "$1/flip/other" "$1/flip/link"
    ln -s ../etc "$1/flip/other"
    mkdir "$1/flip/link"
}
build_2() {
    chmod 1750 "$1/meta"
    touch -d '1969-07-20 20:17:40.5Z' "$1/etc/deep/er/still"
    rm "$1/flip/other"
    mkdir "$1/flip/other"
    echo z >"$1/flip/other/z"
    rm -r "$1/name"
}
build_3() {
    mkdir "$1/name"
    echo new >"$1/name/new"
    ln "$1/links/second" "$1/links/fourth"
    setfattr -n user.new -v new "$1/etc/passwd"
}

# Makes the same image in every format, as the file or directory NAME.FORMAT.
make_formats() {
    local image=$1
    local from=oci:layouts:$image kind
    for kind in legacy engine containerd oci; do
        "$parts/save" "$kind" "$image.$kind.tar" "layouts:$image"
    done
    skopeo copy -q "$from" "docker-archive:$image.skopeo.tar:$image:latest"
    skopeo copy -q "$from" "oci-archive:$image.gzip.tar:$image"
    skopeo copy -q "$from" "oci:$image.gzip:$image"
    skopeo copy -q --dest-compress-format zstd "$from" "oci-archive:$image.zstd.tar:$image"
    mkdir "$image.plain"
    tar -xf "$image.oci.tar" -C "$image.plain"
    gzip -1 <"$image.legacy.tar" >"$image.packed.tar.gz"
    zstd -q -1 <"$image.oci.tar" >"$image.packed.tar.zst"
    # The importer must not rely on the file's name.
    cp "$image.gzip.tar" "$image.zip"
}
