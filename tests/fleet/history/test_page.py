"""A story as a page: whole, self-contained, and safe whatever models and strangers write."""

import re
from dataclasses import replace

import pytest

from fleet.errors import BadInput
from fleet.history import page


async def test_a_page_asks_nothing_of_any_network(recorded):
    text = page.render(await recorded("amended"))
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "<script" not in text
    assert text.count("<svg") == 1


async def test_every_step_and_question_is_on_the_page(recorded):
    told = await recorded("settled")
    text = page.render(told)
    for step in told.steps:
        assert f">{step.name} {step.what} <span" in text
        assert f'id="step-{step.number}"' in text
    assert "was it had?" in text
    assert "the line broke" in text


async def test_what_strangers_write_is_no_markup(recorded):
    told = await recorded("completed")
    step = told.step("1.1")
    step.result = replace(step.result, content="<script>alert(1)</script>\u202e")
    text = page.render(told)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "\u202e" not in text


async def test_long_texts_are_folded(recorded):
    told = await recorded("completed")
    step = told.step("1.1")
    step.result = replace(step.result, content="x" * 5000)
    assert "5000 characters" in page.render(told)


async def test_a_page_that_cannot_be_written_is_refused(recorded, tmp_path):
    told = await recorded("completed")
    with pytest.raises(BadInput, match="No such file"):
        page.write(told, tmp_path / "nowhere" / "page.html")
    page.write(told, tmp_path / "page.html")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["page.html"]
