"""The image's HEALTHCHECK: asks `/live` of the process in this container. Exit code 0 if it answers 200."""

import http.client
import os
import re
import ssl
import sys

TIMEOUT_S = 4.0


def main() -> int:
    """Ask once."""
    said = os.environ.get("FLEET_HEALTH_PORT") or "8303"
    port = int(said) if re.fullmatch("[0-9]{1,5}", said) else 0
    if not 0 < port < 65536:
        print(f"FLEET_HEALTH_PORT: must be a port from 1 to 65535, got {said[:40]!r}", file=sys.stderr)  # noqa: T201
        return 1
    if os.environ.get("FLEET_TLS_CERTIFICATE"):
        # it bears the name that others call the process by, not that of the loopback
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        asked: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=TIMEOUT_S, context=trusting
        )
    else:
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        asked.request("GET", "/live")
        return int(asked.getresponse().status != http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)  # noqa: T201 - what `docker inspect` shows
        return 1


if __name__ == "__main__":
    sys.exit(main())
