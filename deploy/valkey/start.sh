#!/bin/sh
# Writes what it is given with its @secrets@ from files put in, then becomes the server:
#   start.sh valkey-server /etc/valkey/valkey.conf
# ACL files hold SHA-256 digests of passwords, a Sentinel's file the passwords themselves. Needs sh, sed and sha256sum.
set -eu
umask 077
secrets=${SECRETS_DIR:-/run/secrets}
source=${CONFIG_DIR:-/etc/valkey}
target=${RUN_DIR:-/run/valkey}

secret() {
    [ -s "$secrets/$1" ] || { echo "start.sh: $secrets/$1 is missing or empty" >&2; exit 2; }
    tr -d '\r\n' <"$secrets/$1"
}

# filled FILE HOW: FILE with each @name@ replaced by what HOW makes of that secret
filled() {
    cp "$source/$1" "$target/$1.new"
    for name in $(grep -v '^#' "$source/$1" | grep -o '@valkey_[a-z]*@' | sort -u | tr -d @); do
        value=$(secret "$name") || exit 2
        if [ "$2" = digest ]; then
            value=$(printf %s "$value" | sha256sum | cut -d' ' -f1)
        fi
        case $value in
        *[!A-Za-z0-9_.~-]*) echo "start.sh: $secrets/$name: only letters, digits and _.~- can stand in it" >&2; exit 2 ;;
        esac
        # from standard input: a command line can be read by others
        printf 's/@%s@/%s/g\n' "$name" "$value" | sed -f - "$target/$1.new" >"$target/$1.next"
        mv "$target/$1.next" "$target/$1.new"
    done
    mv "$target/$1.new" "$target/$1"
}

kind=server
for argument in "$@"; do
    case $argument in
    --sentinel | sentinel.conf | */sentinel.conf) kind=sentinel ;;
    esac
done
if [ "$kind" = sentinel ]; then
    filled sentinel.conf plain
else
    filled users.acl digest
    filled replicated.conf plain
fi
exec "$@"
