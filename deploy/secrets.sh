#!/bin/sh
# Makes the files of deploy/secrets that compose.yaml names: passwords of its own servers at random; those of others are
# empty, for you to fill in. What is there stays. `--demo`: the simulators take any key, so that none is empty.
set -eu
umask 077
cd "$(dirname "$0")"
demo=${1:-}
[ -z "$demo" ] || [ "$demo" = --demo ] || { echo "secrets.sh: unknown option $demo: there is --demo" >&2; exit 2; }

# containers run as several users, and all must read what is theirs: the folder keeps others out
mkdir -p secrets
chmod 700 secrets

random() {
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

keep() {
    [ -e "secrets/$1" ] && [ -s "secrets/$1" ] && return
    cat >"secrets/$1"
    chmod 644 "secrets/$1"
}

held() {
    cat "secrets/$1"
}

# the manifest's keys of payloads, which compose.yaml names, are lines id:base64
payload_keys=$(sed -n 's|^  FLEET_PAYLOAD_KEYS: "env:\([A-Za-z0-9_]*\)"$|\1|p' compose.yaml)
empty=
for name in $(sed -n 's|^  [A-Za-z0-9_]*: { file: ./secrets/\([A-Za-z0-9_]*\) }$|\1|p' compose.yaml); do
    case $name in
    redis_url) printf 'redis://fleet:%s@valkey:6379/0' "$(held valkey_fleet)" | keep "$name" ;;
    database_url) printf 'postgresql+asyncpg://fleet:%s@postgres/fleet' "$(held postgres_fleet)" | keep "$name" ;;
    database_owner_url)
        printf 'postgresql+asyncpg://fleet_owner:%s@postgres/fleet' "$(held postgres_fleet_owner)" | keep "$name" ;;
    postgres | postgres_* | valkey_* | grafana_* | FLEET_LINK_KEY) random | keep "$name" ;;
    *)
        if [ "$demo" ]; then
            case $name in
            "$payload_keys") printf 'demo:%s' "$(head -c 32 /dev/urandom | base64)" | keep "$name" ;;
            *HOOK*) printf 'whsec_%s' "$(head -c 24 /dev/urandom | base64)" | keep "$name" ;;
            codec_tokens) : ;;
            *) random | keep "$name" ;;
            esac
        fi
        if ! [ -s "secrets/$name" ]; then
            : | keep "$name"
            empty="$empty $name"
        fi
        ;;
    esac
done
[ -z "$empty" ] || echo "empty, and yours to fill in, in $PWD/secrets:$empty"
