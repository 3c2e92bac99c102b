"""How much one execution of a run may hand to the next. Pure."""

import json
from typing import Final

from fleet.contracts.runs import Carried
from fleet.documents import plain

MOST_BYTES: Final = 1_000_000
"""Of what is carried, as JSON. Temporal takes payloads of 2 MB."""
WHOLE_CASES: Final = 100
"""Of decided questions to humans so many are carried whole; of older ones only what was decided."""


def octets(carried: Carried) -> int:
    """Bytes of it as JSON."""
    return len(json.dumps(plain(carried), ensure_ascii=False).encode())
