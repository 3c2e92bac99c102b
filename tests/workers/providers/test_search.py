import asyncio
import contextlib
import json
import socket
import threading
import time
from email.utils import formatdate

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from workers.corpus.index import Corpus, Document
from workers.providers.search import (
    BraveSearch,
    CorpusSearch,
    SearchBadRequest,
    SearchRateLimited,
    SearchRefused,
    SearchUnavailable,
    SearxngSearch,
    TavilySearch,
)

KEY = "key-3141592653"
FOUND = [{"url": f"https://example.org/{n}", "title": f"Title {n}"} for n in range(5)]


class Api:
    """A search API on a free port that answers what the test sets, in the shape of all three providers."""

    def __init__(self):
        self.answer = None
        self.requests = []
        routes = [
            Route("/search", self.reply, methods=["GET", "POST"]),
            Route("/res/v1/web/search", self.reply, methods=["GET"]),
        ]
        self.app = Starlette(routes=routes)
        self.url = ""

    async def reply(self, request):
        body = await request.body()
        self.requests.append({"query": dict(request.query_params), "headers": request.headers, "body": body})
        if self.answer is not None:
            return self.answer(request)
        if request.url.path != "/search":
            found = [entry | {"description": "An <strong>Otter&#x27;s</strong> paw"} for entry in FOUND]
            return JSONResponse({"web": {"results": found}}, headers={"X-RateLimit-Remaining": "7"})
        found = [entry | {"content": "An Otter's paw"} for entry in FOUND]
        return JSONResponse({"results": found}, headers={"X-RateLimit-Remaining": "7"})


@pytest.fixture(scope="module")
def server():
    """One real server for the module."""
    api = Api()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        api.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = uvicorn.Server(uvicorn.Config(api.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield api
        running.should_exit = True
        thread.join(10)


@pytest.fixture
def api(server):
    server.answer = None
    server.requests.clear()
    return server


@pytest.fixture
async def client():
    async with httpx2.AsyncClient(timeout=5, trust_env=False) as opened:
        yield opened


MAKERS = {
    "searxng": SearxngSearch,
    "brave": lambda url, client: BraveSearch(url, KEY, client),
    "tavily": lambda url, client: TavilySearch(url, KEY, client),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


async def test_every_provider_gives_the_same_kind_of_results(api, client, make):
    found = await make(api.url + "/", client).search("otters", 3)
    assert [result.id for result in found.results] == [entry["url"] for entry in FOUND[:3]]
    assert found.results[0].title == "Title 0"
    assert found.results[0].snippet == "An Otter's paw"
    assert found.headers["x-ratelimit-remaining"] == "7"


async def test_searxng_is_asked_for_json(api, client):
    await SearxngSearch(api.url, client).search("sea otters", 3)
    assert api.requests[0]["query"] == {"q": "sea otters", "format": "json"}


async def test_brave_gets_its_key_in_its_own_header(api, client):
    await BraveSearch(api.url, f"{KEY}\n", client).search("sea otters", 99)
    assert api.requests[0]["query"] == {"q": "sea otters", "count": "20"}
    assert api.requests[0]["headers"]["x-subscription-token"] == KEY


async def test_tavily_gets_json_and_a_bearer_key(api, client):
    await TavilySearch(api.url, KEY, client).search("sea otters", 0)
    assert json.loads(api.requests[0]["body"]) == {"query": "sea otters", "max_results": 1}
    assert api.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


async def test_a_query_longer_than_brave_allows_is_cut(api, client):
    await BraveSearch(api.url, KEY, client).search("otter " * 200, 3)
    assert len(api.requests[0]["query"]["q"].split()) == 50


async def test_nothing_found_is_an_answer(api, client, make):
    api.answer = lambda _: JSONResponse({"results": [], "web": None})
    assert (await make(api.url, client).search("otters", 3)).results == ()


async def test_entries_without_a_url_and_repeated_urls_are_left_out(api, client, make):
    entries = [{"title": "no url"}, *FOUND[:2], "nonsense", FOUND[0] | {"title": "again"}, {"url": "https://x.org/"}]
    api.answer = lambda _: JSONResponse({"results": entries, "web": {"results": entries}})
    found = (await make(api.url, client).search("otters", 9)).results
    assert [(r.id, r.title) for r in found] == [
        ("https://example.org/0", "Title 0"),
        ("https://example.org/1", "Title 1"),
        ("https://x.org/", "https://x.org/"),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, SearchRateLimited),
        (500, SearchUnavailable),
        (503, SearchUnavailable),
        (408, SearchUnavailable),
        (401, SearchRefused),
        (403, SearchRefused),
        (432, SearchRefused),
        (400, SearchBadRequest),
        (422, SearchBadRequest),
        (301, SearchBadRequest),
    ],
)
async def test_a_status_becomes_the_error_that_says_what_to_do(api, client, make, status, kind):
    api.answer = lambda _: PlainTextResponse("so it is", status_code=status, headers={"X-Reason": "why"})
    with pytest.raises(kind, match=f"answered {status}: so it is") as raised:
        await make(api.url, client).search("otters", 3)
    assert type(raised.value) is kind
    assert raised.value.status == status
    assert raised.value.headers["x-reason"] == "why"
    assert raised.value.operation == "search"
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("1.5", 1.5, 1.5), (lambda: formatdate(time.time() + 60, usegmt=True), 55, 61), ("0", 0, 0),
     (lambda: formatdate(time.time() - 60, usegmt=True), 0, 0)],
)  # fmt: skip
async def test_retry_after_is_read_as_seconds_or_as_a_date(api, client, make, value, low, high):
    header = value if isinstance(value, str) else value()
    api.answer = lambda _: Response(status_code=429, headers={"Retry-After": header})
    with pytest.raises(SearchRateLimited) as raised:
        await make(api.url, client).search("otters", 3)
    assert low <= raised.value.retry_after <= high


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "inf", ""])
async def test_a_senseless_retry_after_is_none(api, client, value):
    api.answer = lambda _: Response(status_code=429, headers={"Retry-After": value})
    with pytest.raises(SearchRateLimited) as raised:
        await TavilySearch(api.url, KEY, client).search("otters", 3)
    assert raised.value.retry_after is None


async def test_an_error_never_shows_the_key(api, client, make):
    headers = {"Set-Cookie": f"k={KEY}"}
    api.answer = lambda _: PlainTextResponse(f"bad key {KEY}", status_code=401, headers=headers)
    with pytest.raises(SearchRefused) as raised:
        await make(api.url, client).search("otters", 3)
    assert KEY not in repr(raised.value.headers)
    if not isinstance(make(api.url, client), SearxngSearch):  # it has no key
        assert KEY not in str(raised.value)


@pytest.mark.parametrize("key", ["", "  ", "ключ", "two\nlines"])
@pytest.mark.parametrize("provider", [BraveSearch, TavilySearch])
async def test_an_unusable_key_is_refused_without_being_quoted(client, provider, key):
    with pytest.raises(SearchRefused, match="API key") as raised:
        provider("http://127.0.0.1:1", key, client)
    assert not key.strip() or key not in str(raised.value)


async def test_a_403_from_searxng_hints_at_its_json_format(api, client):
    api.answer = lambda _: PlainTextResponse("Forbidden", status_code=403)
    with pytest.raises(SearchRefused, match=r"search\.formats"):
        await SearxngSearch(api.url, client).search("otters", 3)


@pytest.mark.parametrize("body", ["<html>", "[]", "null", '{"results": 3, "web": {"results": 3}}'])
async def test_an_answer_that_makes_no_sense_is_unavailable(api, client, make, body):
    api.answer = lambda _: Response(body)
    with pytest.raises(SearchUnavailable):
        await make(api.url, client).search("otters", 3)


@pytest.mark.parametrize("name", ["searxng", "tavily"])  # Brave leaves its list out when nothing is found
async def test_an_answer_without_a_list_is_unavailable(api, client, name):
    api.answer = lambda _: JSONResponse({"other": 1})
    with pytest.raises(SearchUnavailable, match="without a list of results"):
        await MAKERS[name](api.url, client).search("otters", 3)


async def test_nobody_there_is_unavailable(client, make):
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SearchUnavailable, match="cannot be reached") as raised:
            await make(url, client).search("otters", 3)
    assert raised.value.status is None


async def test_a_time_out_is_unavailable(make):
    async def hang(_reader, writer):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as silent:
        url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with httpx2.AsyncClient(timeout=0.2, trust_env=False) as hasty:
            with pytest.raises(SearchUnavailable, match="did not answer in time"):
                await make(url, hasty).search("otters", 3)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


async def test_a_broken_answer_is_unavailable(make):
    async def break_off(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{"resul')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as broken:
        url = f"http://127.0.0.1:{broken.sockets[0].getsockname()[1]}"
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as client:
            with pytest.raises(SearchUnavailable):
                await make(url, client).search("otters", 3)


async def test_an_empty_query_is_not_sent(api, client, make):
    with pytest.raises(SearchBadRequest, match="at least one word"):
        await make(api.url, client).search("  ", 3)
    assert api.requests == []


async def test_closing_a_provider_leaves_the_shared_client_open(api, client, make):
    await make(api.url, client).aclose()
    assert (await make(api.url, client).search("otters", 3)).results


@pytest.fixture
def corpus(tmp_path):
    with Corpus(tmp_path / "corpus.db") as opened:
        yield opened


async def test_the_corpus_is_a_provider_too(corpus):
    corpus.add([Document(id="a", title="Otters", text="Otters hold hands.", source="a.md")])
    provider = CorpusSearch(corpus)
    (result,) = (await provider.search("otters", 5)).results
    assert (result.id, result.title, result.snippet) == ("a", "Otters", "Otters hold hands.")
    fetched = await provider.fetch("a", 6)
    assert (fetched.text, fetched.truncated, fetched.source) == ("Otters", True, "a.md")
    assert not (await provider.fetch("a", 600)).truncated
    await provider.aclose()
    with pytest.raises(SearchUnavailable, match="closed"):
        await provider.search("otters", 5)


async def test_the_corpus_fails_like_the_others(corpus):
    provider = CorpusSearch(corpus)
    with pytest.raises(SearchRefused, match="fleet corpus add DIR"):
        await provider.search("otters", 5)
    with pytest.raises(SearchBadRequest, match="at least one word"):
        await provider.search("?", 5)
    with pytest.raises(SearchBadRequest, match="no document 'nowhere'") as raised:
        await provider.fetch("nowhere", 10)
    assert (raised.value.status, raised.value.operation) == (404, "fetch")


async def test_a_hundred_searches_at_once_are_answered(corpus):
    corpus.add(Document(id=str(n), title=f"Otter {n}", text="Otters hold hands.") for n in range(50))
    provider = CorpusSearch(corpus)
    answers = await asyncio.gather(*(provider.search(f"otter {n % 50}", 3) for n in range(100)))
    assert all(answer.results[0].id == str(n % 50) for n, answer in enumerate(answers))
