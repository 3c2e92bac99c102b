"""The codec server: what Temporal's Web UI and CLI ask of it, and who may."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf.json_format import MessageToDict, ParseDict
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client

from fleet.cli.codec import who_may
from fleet.codec import data_converter
from fleet.console import codec
from fleet.console.access import Access
from fleet.console.codec import app, origins
from fleet.errors import BadInput
from fleet.settings import Settings
from fleet.storage.places import claimed, places
from tests.conftest import binary
from tests.fleet.fetching import Fetching, worker
from workers.web import served

KEY = base64.b64encode(bytes(range(32))).decode()
UI = "https://temporal.example.com"
SECRET = "the-merger-is-on-friday"
TOKENS = {"ana": "a" * 40, "bob": "b" * 40, "root": "r" * 40}
GRANTS = {"ana": "default,acme", "bob": "other", "root": "*"}


@pytest.fixture
def where(tmp_path):
    (tmp_path / "keys").write_text(f"k1:{KEY}")
    lines = [f"{who}  {hashlib.sha256(token.encode()).hexdigest()}  {GRANTS[who]}" for who, token in TOKENS.items()]
    (tmp_path / "tokens").write_text("# who may see what\n" + "\n".join(lines))
    return Settings(
        payload_keys=f"file:{tmp_path}/keys",
        payload_store=f"file:{tmp_path}/payloads",
        codec_tokens=f"file:{tmp_path}/tokens",
    )


@asynccontextmanager
async def serving(where, *, access="settings"):
    server = app(
        data_converter(where),
        places(where, embedded=False),
        Access.of(where) if access == "settings" else access,
        origins(UI),
    )
    async with (
        served(server, "127.0.0.1", 0, what="codec server", remedy="--port") as listening,
        httpx2.AsyncClient(base_url=listening.url) as http,
    ):
        yield http


async def ask(http, verb, payloads, *, who="ana", namespace="default", query="", **headers):
    sent = {"x-namespace": namespace} if namespace else {}
    if who:
        sent["authorization"] = f"Bearer {TOKENS.get(who, who)}"
    body = MessageToDict(Payloads(payloads=payloads))
    return await http.post(f"/{verb}{query}", json=body, headers=sent | headers)


def answered(response):
    assert response.status_code == 200, response.text
    return list(ParseDict(response.json(), Payloads()).payloads)


PLAIN = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(SECRET).encode())


async def test_what_it_encodes_it_decodes(where):
    async with serving(where) as http:
        (sent,) = answered(await ask(http, "encode", [PLAIN]))
        assert sent.metadata["encoding"] == b"binary/encrypted"
        assert SECRET.encode() not in sent.SerializeToString()
        assert answered(await ask(http, "decode", [sent, PLAIN])) == [PLAIN, PLAIN]
        assert (await data_converter(where).decode([sent])) == [SECRET]


async def test_claims_stay_claims_for_the_ui_and_are_fetched_for_others(where):
    large = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(os.urandom(200_000).hex()).encode())
    async with serving(where) as http:
        (claim,) = answered(await ask(http, "encode", [large]))
        assert claimed(claim) is not None
        assert claim.external_payloads[0].size_bytes > 200_000
        assert answered(await ask(http, "decode", [claim], query="?preserveStorageRefs=true")) == [claim]
        assert answered(await ask(http, "decode", [claim])) == [large]
        # the Web UI sends its query with every request
        assert answered(await ask(http, "download", [claim], query="?preserveStorageRefs=true")) == [large]
        # another namespace's claim stays what it is
        assert answered(await ask(http, "decode", [claim], namespace="acme")) == [claim]
        refused = await ask(http, "download", [claim], namespace="acme")
        assert (refused.status_code, "not of namespace 'acme'" in refused.json()["error"]) == (422, True)
        assert answered(await ask(http, "download", [claim], who="root", namespace="")) == [large]


async def test_what_cannot_be_decoded_comes_back_as_it_was_beside_the_rest(where, tmp_path):
    (tmp_path / "other").write_text(f"gone:{KEY}")
    lost = (await data_converter(where.model_copy(update={"payload_keys": f"file:{tmp_path}/other"})).encode(["x"]))[0]
    (sent,) = await data_converter(where).encode([SECRET])
    async with serving(where) as http:
        with structlog.testing.capture_logs() as logged:
            assert answered(await ask(http, "decode", [lost, sent])) == [lost, PLAIN]
        (line,) = [line for line in logged if line["event"] == "decode"]
        assert (line["payloads"], line["unreadable"], "'gone'" in line["why"]) == (2, 1, True)


@pytest.mark.parametrize("verb", ["decode", "decode?preserveStorageRefs=true", "download"])
async def test_an_answer_has_a_bound_however_small_the_question(where, monkeypatch, verb):
    monkeypatch.setattr(codec, "MOST_ANSWERED", 1_000_000)
    large = Payload(metadata={"encoding": b"json/plain"}, data=b'"' + b"x" * 400_000 + b'"')
    async with serving(where) as http:
        (sent,) = answered(await ask(http, "encode", [large]))
        small = PLAIN if verb == "download" else answered(await ask(http, "encode", [PLAIN]))[0]
        assert sent.ByteSize() < 2000
        with structlog.testing.capture_logs() as logged:
            # what does not fit hides nothing that does
            found = answered(await ask(http, verb, [*[sent] * 8, small]))
    assert found == [large, large, *[sent] * 6, PLAIN]
    (line,) = [line for line in logged if line["event"] == verb.partition("?")[0]]
    assert (line["unreadable"], line["why"].endswith("1000000 for one answer: ask for fewer at once")) == (6, True)


async def test_a_claim_that_lies_of_its_size_is_not_fetched_into_an_answer(where, monkeypatch):
    large = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(os.urandom(200_000).hex()).encode())
    async with serving(where) as http:
        (claim,) = answered(await ask(http, "encode", [large]))
        claim.external_payloads[0].size_bytes = 0
        assert answered(await ask(http, "decode", [claim])) == [large]
        for most in (100_000, 300_000):
            monkeypatch.setattr(codec, "MOST_ANSWERED", most)
            assert answered(await ask(http, "decode", [claim])) == [claim]


async def test_every_request_is_told_to_the_log_without_its_content(where):
    async with serving(where) as http:
        with structlog.testing.capture_logs() as logged:
            (sent,) = answered(await ask(http, "encode", [PLAIN]))
            answered(await ask(http, "decode", [sent]))
            await ask(http, "decode", [sent], who="bob")
            await ask(http, "decode", [sent], who="nobody" * 5)
    told = [(line["event"], line["who"], line["namespace"]) for line in logged]
    assert told == [
        ("encode", "ana", "default"),
        ("decode", "ana", "default"),
        ("refused", "bob", "default"),
        ("refused", "", ""),
    ]
    assert SECRET not in str(logged)
    assert not any(token in str(logged) for token in TOKENS.values())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"who": ""}, 401),
        ({"who": "", "authorization": "Basic YTpi"}, 401),
        ({"who": "unknown-token"}, 401),
        ({"who": "ana", "namespace": "other"}, 403),
        ({"who": "ana", "namespace": ""}, 403),
        ({"who": "bob", "namespace": "default"}, 403),
        ({"origin": "https://evil.example.com"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"verb": "default/decode", "namespace": "acme"}, 400),
        ({"verb": "other/decode", "namespace": ""}, 403),
        ({"verb": "elsewhere"}, 404),
    ],
)
async def test_strangers_and_those_of_other_namespaces_are_refused(where, request_, status):
    request_ = {"verb": "decode"} | request_
    async with serving(where) as http:
        refused = await ask(http, request_.pop("verb"), [PLAIN], **request_)
    assert refused.status_code == status, refused.text
    assert SECRET not in refused.text


@pytest.mark.parametrize("body", [b"", b"{", b'{"payloads": 1}', b'{"a": 1}', b"\xff"])
async def test_what_is_not_payloads_is_refused(where, body):
    headers = {"authorization": f"Bearer {TOKENS['ana']}", "x-namespace": "acme", "content-type": "application/json"}
    async with serving(where) as http:
        assert (await http.post("/decode", content=body, headers=headers)).status_code == 400
        assert (await http.get("/decode", headers=headers)).status_code == 405


async def test_a_body_that_is_too_large_is_refused(where, monkeypatch):
    monkeypatch.setattr(codec, "MOST_BYTES", 1000)
    async with serving(where) as http:
        assert (await ask(http, "decode", [Payload(data=bytes(2000))])).status_code == 413


async def test_a_browser_may_ask_from_the_ui_only(where):
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,authorization-extras,content-type,x-namespace",
    }
    async with serving(where) as http:
        allowed = await http.options("/decode", headers=asks | {"origin": UI})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, UI)
        refused = await http.options("/decode", headers=asks | {"origin": "https://evil.example.com"})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (400, False)
        answer = await ask(http, "decode", [PLAIN], origin=UI)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, UI)


async def test_an_open_server_answers_under_the_names_of_loopback_only(where):
    async with serving(where, access=None) as http:
        assert answered(await ask(http, "decode", [PLAIN], who="", namespace="")) == [PLAIN]
        assert (await ask(http, "decode", [PLAIN], who="", host="evil.example.com")).status_code == 403


# ---- JSON Web Tokens

SIGNS, FORGES = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
CLAIMS = {
    "iss": "https://issuer",
    "aud": "codec",
    "sub": "ana@example.com",
    "permissions": ["default:read", "x:worker"],
}


@asynccontextmanager
async def issuing():
    key = jwt.algorithms.RSAAlgorithm.to_jwk(SIGNS.public_key(), as_dict=True) | {"kid": "1", "use": "sig"}

    async def keys(request):
        return JSONResponse({"keys": [key]})

    issuer = Starlette(routes=[Route("/keys", keys)])
    async with served(issuer, "127.0.0.1", 0, what="issuer", remedy="") as listening:
        yield f"{listening.url}/keys"


def token(key=SIGNS, *, lives_s=60, kid="1", **claims):
    found = {name: value for name, value in (CLAIMS | {"exp": time.time() + lives_s} | claims).items() if value}
    return jwt.encode(found, key, algorithm="RS256", headers={"kid": kid})


async def test_a_token_of_the_issuer_opens_the_namespaces_that_it_names(where):
    async with issuing() as keys:
        with_issuer = where.model_copy(
            update={"codec_issuer": "https://issuer", "codec_audience": "codec", "codec_jwks_url": keys}
        )
        async with serving(with_issuer) as http:

            async def status(who, namespace="default", verb="decode"):
                return (await ask(http, verb, [PLAIN], who=who, namespace=namespace)).status_code

            assert await status(token()) == 200
            assert await status("ana") == 200
            assert await status(token(), "acme") == 403
            assert await status(token(), verb="encode") == 403
            assert await status(token(), "x", verb="encode") == 200
            assert await status(token(permissions=["temporal-system:admin"]), "any", verb="encode") == 200
            assert await status(token(permissions=["default:nothing"])) == 403
            assert await status(token(permissions="default:read")) == 403
            # an issuer's name of a namespace is never a pattern
            assert await status(token(permissions=["*:read"]), "any") == 403
            assert await status(token(permissions=None)) == 403
            lasting = CLAIMS | {"exp": time.time() + 60}
            for bad in (
                token(FORGES), token(lives_s=-60), token(iss="https://other"), token(aud="other"), token(sub=None),
                token(kid="2"), jwt.encode(lasting, "s" * 32, algorithm="HS256", headers={"kid": "1"}),
                jwt.encode(lasting, None, algorithm="none", headers={"kid": "1"}),
                jwt.encode(CLAIMS, SIGNS, algorithm="RS256", headers={"kid": "1"}), "a.b.c",
            ):  # fmt: skip
                assert await status(bad) == 401


async def test_an_issuer_that_does_not_answer_is_no_reason_to_let_anybody_in(where):
    silent = where.model_copy(
        update={
            "codec_issuer": "https://issuer",
            "codec_audience": "codec",
            "codec_jwks_url": "http://127.0.0.1:9/keys",
        }
    )
    async with serving(silent) as http:
        assert (await ask(http, "decode", [PLAIN], who=token())).status_code == 503


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"codec_tokens": "a" * 40}, "must say where the tokens are"),
        ({"codec_issuer": "https://issuer"}, "FLEET_CODEC_AUDIENCE, FLEET_CODEC_JWKS_URL: must be set too"),
        (
            {"codec_issuer": "i", "codec_audience": "a", "codec_jwks_url": "http://issuer.example.com/keys"},
            "must begin with https://",
        ),
    ],
)
def test_half_an_authorization_is_refused(update, why):
    with pytest.raises(BadInput, match=why):
        Access.of(Settings(**update))


@pytest.mark.parametrize("text", ["ana default", "ana " + "g" * 64 + " *", "ana " + "a" * 64, "# nobody"])
def test_a_bad_file_of_tokens_is_refused(tmp_path, text):
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(BadInput, match=r"line 1 is not|there is no token"):
        Access.of(Settings(codec_tokens=f"file:{tmp_path}/tokens"))


@pytest.mark.parametrize("text", ["*", "temporal.example.com", "https://a/", "https://a/b", "ftp://a", "null"])
def test_what_is_no_origin_is_refused(text):
    with pytest.raises(BadInput, match="must be an origin"):
        origins(f"{UI},{text}")


# ---- as a process, asked by Temporal's own CLI


async def spoken(*command, cwd, **env):
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_temporals_own_cli_shows_what_the_server_decrypts(where, temporal_address, tmp_path):
    client = await Client.connect(temporal_address, data_converter=data_converter(where))
    queue, run = str(uuid.uuid4()), f"run-{uuid.uuid4()}"
    handle = await client.start_workflow(Fetching.run, SECRET, id=run, task_queue=queue)
    async with worker(client, queue):
        await handle.signal(Fetching.hear, "fail")
        async with asyncio.timeout(30):
            while (await handle.describe()).close_time is None:
                await asyncio.sleep(0.05)
    environment = {
        "FLEET_PAYLOAD_KEYS": where.payload_keys, "FLEET_PAYLOAD_STORE": where.payload_store,
        "FLEET_CODEC_TOKENS": where.codec_tokens, "FLEET_LOG_FORMAT": "json",
    }  # fmt: skip
    program = str(Path(sys.executable).with_name("fleet"))
    process = await asyncio.create_subprocess_exec(
        program, "codec-server", "--port", "0", cwd=tmp_path, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        address = line.removeprefix("codec server at ").strip()
        shows = [binary("temporal"), "workflow", "show", "-w", run, "--address", temporal_address, "--output", "json"]
        _, without, _ = await spoken(*shows, cwd=tmp_path)
        secret = base64.b64encode(f'"{SECRET}"'.encode()).decode()
        assert secret not in without
        code, decoded, told = await spoken(
            *shows, "--codec-endpoint", address, "--codec-auth", f"Bearer {TOKENS['ana']}", cwd=tmp_path
        )
        assert code == 0, told
        # it prints payloads as they are in proto JSON
        assert secret in decoded
        assert base64.b64encode(f'{{"message":"lost {SECRET}'.encode()).decode()[:40] in decoded
        process.send_signal(signal.SIGTERM)
        _, logged = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, b"Traceback" in logged) == (0, False), logged
        assert b'"decode"' in logged
        assert SECRET.encode() not in logged
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("host", "is_open", "why"),
    [
        ("127.0.0.1", False, "nobody may ask this codec server"),
        ("0.0.0.0", True, "is no loopback address"),
        ("example.com", True, "is no loopback address"),
    ],
)
def test_it_does_not_start_for_everybody(host, is_open, why, where):
    with pytest.raises(BadInput, match=why):
        who_may(Settings(), host, is_open=is_open)
    with pytest.raises(BadInput, match="leave one of the two"):
        who_may(where, "127.0.0.1", is_open=True)
    assert who_may(Settings(), "::1", is_open=True) is None
