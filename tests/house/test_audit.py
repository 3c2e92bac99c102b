"""Known vulnerabilities, the list of what the image is made of, and secrets that lie about."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from load.providers import HOOK_SECRET

ROOT = Path(__file__).parents[2]
ADVISORIES = ROOT / "deploy" / "advisories"


def tool(name):
    """A module of `.ci`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


audit, sbom = tool("audit"), tool("sbom")


def audited(*arguments):
    command = [sys.executable, ROOT / ".ci" / "audit.py", "--local", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def record(name="six", package="six", **events):
    return {
        "id": f"GHSA-{name}",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": package},
                "ranges": [{"type": "ECOSYSTEM", "events": [{kind: at} for kind, at in events.items()]}],
            }
        ],
    }


@pytest.fixture
def known(tmp_path):
    """One advisory, of six before 1.17."""
    text = json.dumps({"looked_up": "2026-11-22", "vulns": [record(introduced="0", fixed="1.17.0")]})
    (tmp_path / "six.json").write_text(text)
    return tmp_path


def test_a_planted_version_with_vulnerabilities_is_found(tmp_path):
    # also where a marker leaves it out here, and as the second version of a package
    lock = 'jinja2==2.4.1 \\\n    --hash=sha256:00\npypdf==7.1.0\npypdf==5.9.0 ; sys_platform == "win32"\n'
    (tmp_path / "bad.lock").write_text(lock)
    code, said = audited(tmp_path / "bad.lock")
    assert code == 1
    assert "jinja2 2.4.1: " in said
    assert "CVE-2025-27516" in said
    assert "pypdf 5.9.0: " in said
    assert "pypdf 7.1.0" not in said


def test_what_is_locked_has_no_known_vulnerability():
    locks = [ROOT / one for one in audit.LOCKS if (ROOT / one).exists()]
    copy, _ = audit.advisories(ADVISORIES)
    found = [
        f"{name} {version}: {one['id']}"
        for name, version in audit.pins(locks)
        for one in copy.get(name, [])
        if audit.affects(one, name, version)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("version", "events", "is_affected"),
    [
        ("1.0", {"introduced": "0", "fixed": "1.0"}, False),
        ("1.0rc1", {"introduced": "0", "fixed": "1.0"}, True),
        ("0.9", {"introduced": "1.0", "fixed": "1.1"}, False),
        ("1.10", {"introduced": "1.9", "fixed": "1.11"}, True),
        ("1.1", {"introduced": "0", "last_affected": "1.1"}, True),
        ("1.1.post1", {"introduced": "0", "last_affected": "1.1"}, False),
        ("2!1.0", {"introduced": "0"}, True),
    ],
)
def test_ranges_are_read_as_osv_means_them(version, events, is_affected):
    assert audit.affects(record(**events), "six", version) is is_affected


def test_ranges_of_several_lines_and_other_ecosystems():
    two = record()
    events = [{"introduced": "2.0"}, {"fixed": "2.2"}, {"introduced": "0"}, {"fixed": "1.26"}]
    two["affected"][0]["ranges"][0]["events"] = events
    found = [v for v in ("1.25", "1.26", "2.0", "2.1", "2.2") if audit.affects(two, "six", v)]
    assert found == ["1.25", "2.0", "2.1"]
    two["affected"][0]["package"]["ecosystem"] = "npm"
    assert not audit.affects(two, "six", "2.1")
    named = {"id": "x", "affected": [{"package": {"ecosystem": "PyPI", "name": "Six"}, "versions": ["9"]}]}
    assert audit.affects(named, "six", "9")


def passed(**changed):
    entry = {"id": "GHSA-six", "package": "six", "reason": "it is not called", "expires": "2999-01-01"} | changed
    lines = [f"{k} = {v if k == 'expires' else json.dumps(v)}" for k, v in entry.items() if v is not None]
    return "[[exception]]\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (passed(), None),
        (passed(expires="2026-01-01"), "has expired on 2026-01-01"),
        (passed(reason=" "), "has no reason"),
        (passed(reason=None), "needs id, package, reason and expires"),
        (passed(id="GHSA-other"), "exception GHSA-other of six: no advisory needs it"),
    ],
)
def test_exceptions_have_a_reason_and_an_end(known, capsys, monkeypatch, text, problem):
    (known / "exceptions.toml").write_text(text)
    lock = known / "requirements.lock"
    lock.write_text("six==1.16.0\n")
    vulnerability = {"id": "GHSA-six", "aliases": [], "fix_versions": ["1.17.0"], "description": "It falls."}
    found = [{"name": "six", "version": "1.16.0", "vulns": [vulnerability]}]
    monkeypatch.setattr(audit, "affected", lambda wanted, url: found)
    code = audit.audit([lock], known, local=True)
    said = capsys.readouterr().out
    assert code == (0 if problem is None else 1), said
    assert problem is None or problem in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[exception]\n", "exceptions.toml: cannot be read as TOML"),
        (b"\xff", "exceptions.toml: cannot be read as TOML"),
        ('[exception]\nid = "GHSA-six"\n', "exceptions.toml: has no [[exception]]"),
        ("exception = [1]\n", "exceptions.toml: has no [[exception]]"),
    ],
)
def test_a_list_of_exceptions_that_cannot_be_read_is_one_line(known, text, problem):
    (known / "exceptions.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(audit.Unasked) as raised:
        audit.exceptions(known / "exceptions.toml", date(2026, 11, 22))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("expires", ['"soon"', "2999-01-01T00:00:00", "1"])
def test_an_exception_ends_on_a_day(known, expires):
    (known / "exceptions.toml").write_text(passed(expires=expires))
    _, problems = audit.exceptions(known / "exceptions.toml", date(2026, 11, 22))
    assert problems == ["exception GHSA-six: expires must be a day, as 2027-01-31, and the others text"]


def test_a_service_that_is_away_makes_nothing_red(known, capsys, monkeypatch):
    (known / "requirements.lock").write_text("six==1.17.0\n")

    def away(wanted, url):
        if url == audit.OSV:
            raise audit.Unasked("no answer")
        return []

    monkeypatch.setattr(audit, "affected", away)
    assert audit.audit([known / "requirements.lock"], known, local=False) == 0
    assert "OSV was not asked (no answer): judged by the copy alone" in capsys.readouterr().out


def test_a_look_at_osv_replaces_the_copy(known, monkeypatch):
    def away(name):
        raise audit.Unasked("OSV does not answer")

    monkeypatch.setattr(audit, "_of_osv", away)
    with pytest.raises(audit.Unasked):
        audit.refresh([("wrapt", "1.0")], known)
    assert (known / "six.json").exists()
    monkeypatch.setattr(audit, "_of_osv", lambda name: [record(name, name, introduced="0")] if name == "wrapt" else [])
    assert audit.refresh([("wrapt", "1.0"), ("typer", "2.0")], known) == 1
    assert [path.name for path in known.glob("*.json")] == ["wrapt.json"]
    copy, looked = audit.advisories(known)
    assert audit.affects(copy["wrapt"][0], "wrapt", "1.0")
    assert looked == datetime.now(UTC).date()


@pytest.mark.parametrize("text", ["", "six>=1\n"])
def test_a_lock_that_names_nothing_cannot_pass(known, text):
    (known / "empty.lock").write_text(text)
    with pytest.raises(audit.Unasked, match="names no version"):
        audit.pins([known / "empty.lock"])


@pytest.mark.parametrize("text", [None, "{}", "[]", "no"])
def test_a_copy_that_cannot_be_read_cannot_pass(tmp_path, text):
    if text is not None:
        (tmp_path / "six.json").write_text(text)
    with pytest.raises(audit.Unasked, match="--refresh"):
        audit.advisories(tmp_path)


def test_the_copy_is_as_osv_writes():
    locked = {name for name, _ in audit.pins([ROOT / "requirements.lock"])}
    problems = []
    for path in sorted(ADVISORIES.glob("*.json")):
        document = json.loads(path.read_text())
        assert date.fromisoformat(document["looked_up"]) <= datetime.now(UTC).date() + timedelta(days=1), path.name
        if canonicalize_name(path.stem) not in locked:
            problems.append(f"{path.name}: is not locked")
        for one in document["vulns"]:
            ids = [one["id"], *one.get("aliases", [])]
            if not all(re.fullmatch(r"(GHSA(-[0-9a-z]{4}){3}|CVE-\d{4}-\d{4,}|PYSEC-\d{4}-\d+|\S+)", i) for i in ids):
                problems.append(f"{path.name}: {ids}")
            if not (one.get("summary") or one.get("details")) or not one["references"] or not one["modified"]:
                problems.append(f"{path.name}: {one['id']} lacks summary, references or modified")
            for affected in one["affected"]:
                for bounds in affected.get("ranges", []):
                    versions = [Version(at) for event in bounds["events"] for at in event.values() if at != "0"]
                    if bounds["type"] == "ECOSYSTEM" and not versions and "versions" not in affected:
                        problems.append(f"{path.name}: {one['id']} never ends")
    assert problems == []


def test_the_list_of_the_image_is_valid_and_the_same_each_time(tmp_path):
    lock = ROOT / "deploy" / "requirements.lock"
    whole = ROOT / "requirements.lock"
    lock = lock if lock.exists() else whole
    environment = {"SOURCE_DATE_EPOCH": "1780000000"}
    text = sbom.document(lock, whole, "1.2.3", environment)
    assert text == sbom.document(lock, whole, "1.2.3", environment)
    told = json.loads(text)
    assert (told["metadata"]["component"]["name"], told["metadata"]["component"]["version"]) == ("agent-fleet", "1.2.3")
    assert told["metadata"]["timestamp"].startswith("2026-05-28T")
    wanted = {(name, version) for name, version in audit.pins([lock])}
    assert {(one["name"], one["version"]) for one in told["components"]} == wanted
    assert all(one["hashes"] for one in told["components"])
    # every licence of what runs is known, but of what this machine does not install
    assert sum("licenses" not in one for one in told["components"]) <= 4
    edges = {one["ref"]: one.get("dependsOn", []) for one in told["dependencies"]}
    jinja2 = next(ref for ref in edges if ref.startswith("pkg:pypi/jinja2@"))
    assert jinja2 in edges["agent-fleet"]
    assert [ref.partition("@")[0] for ref in edges[jinja2]] == ["pkg:pypi/markupsafe"]
    changed = tmp_path / "changed.lock"
    changed.write_text(lock.read_text() + "six==1.0\n")
    other = json.loads(sbom.document(changed, whole, "1.2.3", {}))
    assert other["serialNumber"] != told["serialNumber"]
    assert "timestamp" not in other["metadata"]


SHAPES = {
    "a key of OpenAI or Anthropic": (r"(?<![\w-])sk-(?:ant-|proj-)?([A-Za-z0-9_-]{20,})", 3.5),
    # capitals and digits, sixteen of them: there is less to it
    "a key of AWS": (r"\b(?:AKIA|ASIA)([A-Z0-9]{16})\b", 2.5),
    "a token of Slack": (r"\bxox[abposr]-([A-Za-z0-9-]{10,})", 3.5),
    "a Slack webhook": (r"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/(\w{16,})", 3.5),
    "a token of GitHub": (r"\b(?:gh[pousr]|github_pat)_(\w{30,})", 3.5),
    "a key of Google": (r"\bAIza([A-Za-z0-9_-]{35})", 3.5),
    "a private key": (r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+([A-Za-z0-9+/]{40,})", 3.5),
    "a webhook's secret": (r"\bwhsec_([A-Za-z0-9+/]{24,})", 3.5),
    "a JSON Web Token": (r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.([A-Za-z0-9_-]{20,})", 3.5),
}
"""What secrets look like, their random part apart, and the bits that a letter of it must have."""


def secrets_in(text):
    """Kinds of what looks like a secret. Text that repeats itself (`sk-4444…`, `whsec_AAAA…`) is an example."""
    return [
        kind for kind, (shape, bits) in SHAPES.items() for found in re.findall(shape, text) if _entropy(found) > bits
    ]


def _entropy(text):
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git which files are the project's")
def test_no_secret_lies_in_a_file_of_the_project():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    guilty = {
        name: kinds
        for name in files
        if (ROOT / name).is_file()
        # tests have made-up secrets, to find them in logs
        and not name.startswith("tests/")
        # that of the simulated webhooks opens nothing
        and (kinds := secrets_in((ROOT / name).read_text(errors="ignore").replace(HOOK_SECRET, "")))
    }
    assert guilty == {}


def test_a_planted_secret_is_found():
    # put together here, so that no scanner of others finds them in this file
    key, pem = "Zq8Lw3nT0vXy7RbK2mPd5HsJ", "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQC7"
    planted = [
        "sk-" + key,
        "sk-ant-" + key,
        "AKIA" + "Q3EGRZX5WTLB7KJN",
        "xoxb-" + "2734981650-" + key,
        "ghp_" + key + "a9F1cQ",
        "whsec_" + key,
        "-----BEGIN " + "PRIVATE KEY-----\n" + pem,
        "-----BEGIN RSA " + "PRIVATE KEY-----\n" + pem,
        # what comes after their last _ or - is short
        "sk-" + key + "_Ab",
        "sk-ant-" + "api03-" + key + "_x-Q_AA",
        "github_pat_" + key + "_a9F1cQ_7Z",
        "AIza" + "Sy" + key[:22] + "_kP3-mN9_x1Z",
        # some of its letters come often
        "AKIA" + "Q3Q3RRX5QTLB3QRX",
    ]
    assert [text for text in planted if not secrets_in(f'api_key = "{text}"\n')] == []
    assert secrets_in("sk-" + "4" * 30 + " OPENAI_API_KEY=sk-... a-task-of-somebody-or-other-here") == []
