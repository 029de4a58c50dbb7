#!/bin/sh
# Makes the root folder of the container image: the binary without its debug information, the few libraries that it is
# linked to, and a user that is not root.
#   deploy/image-root.sh target/release/highwater target/image
set -eu
binary=$1 root=$2
rm -rf "$root"
mkdir -p "$root/etc" "$root/data" "$root/tmp"
install -m 755 "$binary" "$root/highwater"
strip "$root/highwater"
# The loader and the libraries, where the binary looks for them.
ldd "$binary" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
echo 'highwater:x:65532:65532:highwater:/data:/highwater' > "$root/etc/passwd"
echo 'highwater:x:65532:' > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
