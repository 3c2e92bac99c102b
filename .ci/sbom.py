"""What the image is made of, as a CycloneDX document: every version of its lock file, and ours.

sbom.py [--out FILE]    default: standard output

The same lock file, version and environment make the same bytes: licences and edges are those of the packages that are
installed here. The time is `SOURCE_DATE_EPOCH`; without it none is told.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from uuid import UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseAcknowledgement, LicenseRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "deploy" / "requirements.lock"
WHOLE = ROOT / "requirements.lock"
OURS = "agent-fleet"
_NAMESPACE = UUID("6f0a7f6e-4a52-5d0a-9a57-5f7c9be0a2d4")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(.*)$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^    #(?: via)? +([A-Za-z0-9][A-Za-z0-9._-]*)(?: .*)?$")


@dataclass(slots=True, kw_only=True)
class Pin:
    """One version of a lock file."""

    name: str
    version: str
    hashes: list[str] = field(default_factory=list)
    """SHA-256 of each file that may be installed for it."""
    wanted_by: list[str] = field(default_factory=list)


def pins(lock: Path) -> list[Pin]:
    """What the lock file names, in its order."""
    found: list[Pin] = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if named := _PIN.match(line):
            found.append(Pin(name=canonicalize_name(named[1]), version=named[2]))
        if found:
            found[-1].hashes += _HASH.findall(line)
        if found and (via := _VIA.match(line)):
            found[-1].wanted_by.append(canonicalize_name(via[1]))
    return found


def licenses(name: str, version: str) -> LicenseRepository:
    """What the installed package says of its licence, if it is this version; nothing where it says nothing."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return LicenseRepository()
    if told["Version"] != version:
        return LicenseRepository()
    declared = LicenseAcknowledgement.DECLARED
    if expression := told["License-Expression"]:
        return LicenseRepository([LicenseFactory().make_from_string(expression, license_acknowledgement=declared)])
    classified = [one.split(" :: ")[-1] for one in told.get_all("Classifier") or [] if one.startswith("License :: ")]
    short = told["License"] if told["License"] and len(told["License"]) <= 60 and "\n" not in told["License"] else None
    names = classified or ([short] if short else [])
    return LicenseRepository(DisjunctiveLicense(name=one, acknowledgement=declared) for one in sorted(set(names)))


def component(pin: Pin) -> Component:
    """A package as the document names it."""
    url = PackageURL(type="pypi", name=pin.name, version=pin.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=pin.name,
        version=pin.version,
        purl=url,
        bom_ref=str(url),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in sorted(pin.hashes)],
        licenses=licenses(pin.name, pin.version),
    )


def document(lock: Path, whole: Path, version: str, environment: Mapping[str, str]) -> str:
    """The document, valid by CycloneDX's own schema.

    Args:
        lock: what is in the image.
        whole: the lock file that also says who wants what.
        version: ours.
        environment: where `SOURCE_DATE_EPOCH` may be.

    Raises:
        ValueError: the document is not what the schema asks for.
    """
    locked = pins(lock)
    ours = Component(
        type=ComponentType.APPLICATION,
        name=OURS,
        version=version,
        purl=PackageURL(type="pypi", name=OURS, version=version),
        bom_ref=OURS,
        licenses=licenses(OURS, version),
    )
    made = {(pin.name, pin.version): component(pin) for pin in locked}
    bom = Bom(
        components=made.values(),
        serial_number=uuid5(_NAMESPACE, f"{version}\n{lock.read_text(encoding='utf-8')}"),
    )
    bom.metadata.component = ours
    if epoch := environment.get("SOURCE_DATE_EPOCH"):
        bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), tz=UTC)
    by_name: dict[str, list[Component]] = {OURS: [ours]}
    for pin in locked:
        by_name.setdefault(pin.name, []).append(made[pin.name, pin.version])
    for pin in pins(whole):
        if (needed := made.get((pin.name, pin.version))) is not None:
            for name in pin.wanted_by:
                for wanting in by_name.get(name, []):
                    bom.register_dependency(wanting, [needed])
    told = json.loads(JsonV1Dot6(bom).output_as_string())
    if not epoch:
        told["metadata"].pop("timestamp", None)
    text = json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if (error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ValueError(f"not valid by the schema of CycloneDX 1.6: {error}")
    return text


def main(arguments: Sequence[str]) -> int:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")
    asked = parser.parse_args(arguments)
    text = document(LOCK if LOCK.exists() else WHOLE, WHOLE, metadata(OURS)["Version"], os.environ)
    if asked.out is None:
        sys.stdout.write(text)
    else:
        asked.out.write_text(text, encoding="utf-8")
        sys.stderr.write(f"sbom: {asked.out}: {len(json.loads(text)['components'])} components\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
