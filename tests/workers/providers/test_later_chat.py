"""A provider whose SDK is imported when a run asks for it."""

import asyncio
import threading

import pytest

from workers.providers.chat import LaterChat


class Client:
    def __init__(self, made_in):
        self.made_in = made_in
        self.closed = False

    async def aclose(self):
        self.closed = True


@pytest.fixture
def made():
    return []


@pytest.fixture
def later(made):
    def make():
        made.append(Client(threading.current_thread()))
        return made[-1]

    return LaterChat(make)


async def test_it_is_made_once_for_all_who_ask_and_beside_the_loop(later, made):
    found = await asyncio.gather(*(later.made() for _ in range(5)))
    assert found == made * 5
    assert made[0].made_in is not threading.main_thread()


async def test_it_is_closed_where_it_was_made(later, made):
    await later.aclose()
    assert made == []
    client = await later.made()
    await later.aclose()
    assert client.closed


async def test_who_could_not_make_it_tries_again():
    answers = [ImportError("no SDK"), Client(None)]

    def make():
        found = answers.pop(0)
        if isinstance(found, ImportError):
            raise found
        return found

    later = LaterChat(make)
    with pytest.raises(ImportError, match="no SDK"):
        await later.made()
    assert isinstance(await later.made(), Client)
