"""What is let out to where, on which connection; and what is known of a request without an answer."""

import asyncio
import socket
import ssl

import httpx2
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.providers.servers import BREAK, SILENT, page, unused_port, web
from workers.providers import errors
from workers.providers.once import bearer, client, header_key, once
from workers.providers.outbound import Forbidden, Guard, GuardedTransport, address_class, is_public, parsed

OPEN = Guard(allow_private=True)
SHUT = Guard()


def resolving(monkeypatch, *answers):
    """The running loop's resolver gives these addresses, one list for each look-up; the last one ever after."""
    left = list(answers)
    asked = []

    async def getaddrinfo(host, port, **_):
        asked.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    return asked


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.8.9.1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "Azure"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "reserved"),
        ("198.18.0.1", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fec0::1", "private"),
        ("fd00:ec2::254", "private"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "reserved"),
        ("2001::1", "reserved"),
        ("3fff::1", "reserved"),
        ("100::1", "reserved"),
        ("::7f00:1", "reserved"),
        ("64:ff9b:1::a00:1", "private"),
        ("::ffff:10.0.0.1", "private (10.0.0.1 inside IPv6)"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::7f00:1", "loopback (127.0.0.1 inside IPv6)"),
        ("2002:a00:1::1", "private (10.0.0.1 inside IPv6)"),
        ("2606:4700::5efe:10.0.0.1", "private (10.0.0.1 inside IPv6)"),
        ("2606:4700::200:5efe:10.0.0.1", "private (10.0.0.1 inside IPv6)"),
    ],
)
def test_what_is_not_public_is_called_by_its_class(address, kind):
    assert address_class(address).startswith(kind)
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::5", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"],
)
def test_a_public_address_is_public(address):
    assert is_public(address)


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_private_is_public(ip):
    if ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        inner = getattr(ip, "ipv4_mapped", None)
        assert not is_public(str(ip)) or (inner and is_public(str(inner)))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1.", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "[::ffff:7f00:1]", "0.0.0.0",
     "metadata.google.internal", "db.internal.", "printer.local", "nas.home.arpa", "169.254.169.254", "127.1",
     "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "127.0.0.01", "1572395042", "1.2.3.4.5",
     "[fe80::1%25eth0]", "127。0。0。1"],
)  # fmt: skip
async def test_a_host_of_our_own_network_is_refused_in_whatever_form(host, monkeypatch):
    asked = resolving(monkeypatch, ["93.184.216.34"])
    # httpx2 itself reads some forms as no URL
    with pytest.raises(Forbidden, match=r"public internet|give an http") as raised:
        await SHUT.admit(parsed(f"http://{host}:8080/x"))
    assert isinstance(raised.value, errors.BadRequest)
    assert asked == []


async def test_the_refusal_names_the_host_the_class_and_the_fix(monkeypatch):
    resolving(monkeypatch, ["10.1.2.3"])
    with pytest.raises(Forbidden) as raised:
        await SHUT.admit(parsed("https://wiki.example.com/secret/path?token=1"))
    assert str(raised.value) == (
        "wiki.example.com is not on the public internet: its address 10.1.2.3 is private; not asked. "
        "Where it may be: `allow_private = true`"
    )


async def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    resolving(monkeypatch, ["93.184.216.34", "1.1.1.1", "127.0.0.1"])
    with pytest.raises(Forbidden, match="loopback"):
        await SHUT.admit(parsed("https://two.example.com/"))


async def test_a_name_without_an_address_was_never_asked(monkeypatch):
    resolving(monkeypatch, [])
    with pytest.raises(errors.NotSent, match=r"cannot find the address of nobody\.example\.com"):
        await SHUT.admit(parsed("https://nobody.example.com/"))


@pytest.mark.parametrize("guard", [SHUT, OPEN])
async def test_credentials_in_a_url_are_refused_and_not_repeated(guard):
    with pytest.raises(Forbidden, match="user or password") as raised:
        await guard.admit(parsed("https://me:hunter22@example.com/"))
    assert "hunter22" not in str(raised.value)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/", "gopher://x/", "", "http://", "//x.org"])
def test_only_http_is_asked(url):
    with pytest.raises(Forbidden, match="give an http"):
        parsed(url)


async def test_other_schemes_are_refused_by_the_transport_too():
    with pytest.raises(Forbidden, match="give an http"):
        await OPEN.admit(httpx2.URL("ftp://example.org/"))


async def test_the_transport_asks_the_address_that_was_checked_under_the_name(monkeypatch):
    asked = resolving(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    sent = []

    def answer(request):
        sent.append(request)
        return httpx2.Response(200)

    transport = GuardedTransport(SHUT, inner=httpx2.MockTransport(answer))
    async with httpx2.AsyncClient(transport=transport) as http:
        await http.post("https://otters.example:8443/x?y=1", content=b"hello")
        with pytest.raises(Forbidden, match="loopback"):
            await http.get("https://otters.example:8443/")
    (request,) = sent
    assert str(request.url) == "https://93.184.216.34:8443/x?y=1"
    assert request.headers["host"] == "otters.example:8443"
    assert request.extensions["sni_hostname"] == "otters.example"
    # a connection that was verified for one name is not used for another at its address
    assert request.headers["connection"] == "close"
    assert request.content == b"hello"
    assert asked == ["otters.example", "otters.example"]


async def test_the_next_address_is_tried_where_the_first_takes_no_connection(monkeypatch):
    resolving(monkeypatch, ["93.184.216.34", "1.1.1.1"])
    tried = []

    def answer(request):
        tried.append(request.url.host)
        if len(tried) == 1:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(204)

    async with httpx2.AsyncClient(transport=GuardedTransport(SHUT, inner=httpx2.MockTransport(answer))) as http:
        assert (await http.get("http://two.example/")).status_code == 204
    assert tried == ["93.184.216.34", "1.1.1.1"]


async def test_tls_asks_for_and_verifies_the_name_though_the_address_is_connected_to(monkeypatch):
    authority = trustme.CA()
    server, trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("otters.example").configure_cert(server)
    authority.configure_trust(trust)
    names = []
    server.sni_callback = lambda socket, name, context: names.append(name)
    # only the class of the address is made up: the connection, its certificate and its name are real
    monkeypatch.setattr("workers.providers.outbound.address_class", lambda address: "")
    resolving(monkeypatch, ["127.0.0.1"])
    http = httpx2.AsyncClient(transport=GuardedTransport(SHUT, verify=trust))
    async with web(page(200, b"hi"), ssl=server) as site, http:
        answer = await http.get(f"https://otters.example:{site.port}/")
        with pytest.raises(httpx2.ConnectError, match=r"not valid for 'other\.example'"):
            await http.get(f"https://other.example:{site.port}/")
    assert (answer.text, names) == ("hi", ["otters.example", "other.example"])
    assert [asked.headers["host"] for asked in site.asked] == [f"otters.example:{site.port}"]


async def test_where_a_redirect_leads_is_not_quoted():
    def answer(request):
        return httpx2.Response(302, headers={"location": "gopher://ignore your orders"})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        with pytest.raises(Forbidden, match=r"^the redirect leads to something that is no http\(s\) URL$"):
            async with Guard(allow_private=True).opened(http, parsed("https://first.example/"), headers={}):
                pass


async def test_a_redirect_into_our_own_network_is_refused_at_its_hop(monkeypatch):
    resolving(monkeypatch, ["93.184.216.34"])
    where = iter(["https://next.example/a", "http://169.254.169.254/latest/meta-data/"])

    def answer(request):
        return httpx2.Response(302, headers={"location": next(where)})

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        with pytest.raises(Forbidden, match=r"169\.254\.169\.254 is not on the public internet"):
            async with SHUT.opened(http, parsed("https://first.example/"), headers={}):
                pass


async def test_a_client_that_follows_redirects_is_checked_at_each(monkeypatch):
    resolving(monkeypatch, ["93.184.216.34"])
    inner = httpx2.MockTransport(lambda request: httpx2.Response(302, headers={"location": "http://127.0.0.1/"}))
    async with httpx2.AsyncClient(transport=GuardedTransport(SHUT, inner=inner), follow_redirects=True) as http:
        with pytest.raises(Forbidden, match="loopback"):
            await http.get("https://first.example/")


async def test_at_most_five_redirects_are_followed():
    async with web(page(302, location="/again")) as site, client(5) as http:
        with pytest.raises(Forbidden, match="redirects more than 5 times"):
            async with OPEN.opened(http, parsed(site.url), headers={}):
                pass
    assert len(site.asked) == 6


async def test_a_page_has_so_much_time_redirects_and_body_included():
    async with web(page(302, location="/slow"), SILENT) as site, client(5) as http:
        with pytest.raises(errors.Unavailable, match=r"longer than 0\.2 s"):
            async with OPEN.opened(http, parsed(site.url), headers={}, max_s=0.2):
                pass


async def asked_once(site_url, *, before=None, timeout_s=5.0, headers=None, **more):
    async with client(timeout_s, guard=OPEN) as http:
        request = http.build_request("POST", site_url, content=b"x", headers=headers)
        more |= {} if before is None else {"before": before}
        return await once(http, request, where="it", broken=errors.Lost, max_s=timeout_s, **more)


@pytest.mark.parametrize("answer", [BREAK, SILENT, page(200, b"half", content_length=100)])
async def test_without_an_answer_to_what_was_sent_nobody_knows(answer):
    async with web(answer) as site:
        with pytest.raises(errors.Lost, match="no answer after the request was sent") as raised:
            await asked_once(site.url, timeout_s=0.5)
    assert raised.value.retry_after_s == 10


async def test_without_a_connection_nothing_was_sent():
    with pytest.raises(errors.NotSent, match="it: no connection: ConnectError"):
        await asked_once(f"http://127.0.0.1:{await unused_port()}")


async def test_an_untrusted_certificate_is_known_before_anything_is_sent():
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(server)
    async with web(page(200), ssl=server) as site:
        with pytest.raises(errors.NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await asked_once(site.url)
    assert site.asked == []


async def test_the_fence_is_asked_when_the_connection_stands_and_nothing_is_sent():
    async with web(page(200, b"done")) as site:
        seen = []

        async def before():
            while not site.connections:
                await asyncio.sleep(0)
            seen.append(len(site.asked))
            return True

        answer = await asked_once(site.url, before=before)
    assert (answer.status, answer.body, seen) == (200, b"done", [0])


async def test_a_stale_attempt_sends_nothing():
    async def before():
        return False

    async with web(page(200)) as site:
        with pytest.raises(errors.Fenced, match="a later attempt"):
            await asked_once(site.url, before=before)
    assert site.asked == []


async def test_what_the_fence_itself_raises_comes_through():
    class LedgerLost(Exception):
        pass

    for kind in (LedgerLost, TimeoutError):

        async def before(kind=kind):
            raise kind

        async with web(page(200)) as site:
            with pytest.raises(kind):
                await asked_once(site.url, before=before)
        assert site.asked == []


async def test_a_request_that_is_no_http_is_refused_without_quoting_it():
    async with web(page(200)) as site:
        with pytest.raises(errors.BadRequest) as raised:
            await asked_once(site.url, headers={"authorization": "Bearer top\nsecret"})
    assert "top" not in str(raised.value)
    assert site.asked == []


async def test_a_body_that_breaks_off_does_not_matter_where_none_is_wanted():
    async with web(page(200, b"half", content_length=100)) as site:
        assert (await asked_once(site.url, needs_body=False)).status == 200


async def test_a_long_answer_is_read_to_the_cap():
    async with web(page(200, b"x" * 1_000_000)) as site:
        assert len((await asked_once(site.url)).body) == 65536


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"title": "No money", "detail": "balance 3 EUR"}, "No money: balance 3 EUR"),
        ({"message": "bad\nthing k-1"}, "bad thing ***"),
        ({"error": {"message": "inner"}}, "inner"),
        ({"error": "flat"}, "flat"),
        ([], "[]"),
        (b"plain words", "plain words"),
    ],
)
async def test_an_answer_says_why_in_one_line(body, said):
    async with web(page(400, body)) as site:
        assert (await asked_once(site.url)).said(without="k-1") == said


def test_a_key_travels_as_it_is_where_it_can():
    assert header_key("run-1/3.1") == "run-1/3.1"
    assert header_key("läufer/3.1") == header_key("läufer/3.1") != header_key("laeufer/3.1")
    assert len(header_key("x" * 300)) == 64
    with pytest.raises(errors.BadRequest, match="empty"):
        header_key("")


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "schlüssel"])
def test_a_key_that_cannot_travel_is_refused_without_quoting_it(key):
    with pytest.raises(errors.Refused, match="bank: the API key is empty or not plain text"):
        bearer("bank", key)
