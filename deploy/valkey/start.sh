#!/bin/sh
# Writes what it is given with its @secrets@ from files put in, then becomes the server:
#   start.sh valkey-server /etc/valkey/valkey.conf
#   start.sh valkey-server /data/sentinel.conf --sentinel
# A Sentinel's file is made in the folder that the command names, which has to last: what the Sentinel has written into it (who is
# master, which replicas and Sentinels there are, its epochs) is kept at every start, all else comes anew from the template.
# ACL files hold SHA-256 digests of passwords, a Sentinel's file the passwords themselves. Needs sh, awk, grep, sed and sha256sum.
set -eu
umask 077
secrets=${SECRETS_DIR:-/run/secrets}
source=${CONFIG_DIR:-/etc/valkey}
target=${RUN_DIR:-/run/valkey}

secret() {
    [ -s "$secrets/$1" ] || { echo "start.sh: $secrets/$1 is missing or empty" >&2; exit 2; }
    tr -d '\r\n' <"$secrets/$1"
}

# filled FILE HOW: FILE.new with each @name@ replaced by what HOW makes of that secret
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
}

# remembered OLD NEW: NEW with what a Sentinel has found out and written into OLD
remembered() {
    awk '
        FILENAME == ARGV[1] && $1 == "sentinel" {
            if ($2 == "monitor") master[$3] = $4 " " $5
            else if ($2 ~ /^(config-epoch|leader-epoch|known-replica|known-slave|known-sentinel)$/) known[$3] = known[$3] $0 "\n"
            else if ($2 ~ /^(myid|current-epoch)$/) own = own $0 "\n"
        }
        FILENAME == ARGV[1] { next }
        $1 == "sentinel" && $2 == "monitor" && $3 in master { found = found known[$3]; $0 = "sentinel monitor " $3 " " master[$3] " " $6 }
        { print }
        END { printf "%s%s", own, found }
    ' "$1" "$2"
}

kind=server
for argument in "$@"; do
    case $argument in
    */sentinel.conf) kind=sentinel target=${argument%/*} ;;
    --sentinel | sentinel.conf) kind=sentinel ;;
    esac
done
if [ "$kind" = sentinel ]; then
    if [ "$target" -ef "$source" ]; then
        echo "start.sh: $target holds the template: name sentinel.conf in a folder that lasts, such as /data/sentinel.conf" >&2
        exit 2
    fi
    filled sentinel.conf plain
    if [ -s "$target/sentinel.conf" ]; then
        remembered "$target/sentinel.conf" "$target/sentinel.conf.new" >"$target/sentinel.conf.next"
        mv "$target/sentinel.conf.next" "$target/sentinel.conf.new"
    fi
    mv "$target/sentinel.conf.new" "$target/sentinel.conf"
else
    for file in users.acl:digest replicated.conf:plain; do
        filled "${file%:*}" "${file#*:}"
        mv "$target/${file%:*}.new" "$target/${file%:*}"
    done
fi
exec "$@"
