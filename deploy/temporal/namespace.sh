#!/bin/sh
# Makes the fleet's namespace, or says that it is there. Its search attributes are `fleet init`'s.
set -eu
: "${TEMPORAL_ADDRESS:=temporal:7233}" "${TEMPORAL_NAMESPACE:=default}" "${RETENTION:=7d}"
# gRPC for Go asks DNS for service configurations first; in a network that leads nowhere nobody answers that
case $TEMPORAL_ADDRESS in
*://*) ;;
*) TEMPORAL_ADDRESS=passthrough:///$TEMPORAL_ADDRESS ;;
esac
export TEMPORAL_ADDRESS
if temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
    echo "namespace $TEMPORAL_NAMESPACE is there"
else
    temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention "$RETENTION"
fi
