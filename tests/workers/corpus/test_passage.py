"""The passage that is read is the one that speaks of what was asked."""

from workers.corpus.passage import passage

FILLER = "\n".join(f"Line {n} says nothing of importance about the module." for n in range(200))
NEEDLE = "module.needle(thread)\n    Pull the thread through the cloth. Raises TangleError when it is knotted."


def test_the_rare_words_lines_are_found_wherever_they_are():
    text = f"{FILLER}\n{NEEDLE}\n{FILLER}"
    found, start = passage(text, "What does module.needle do?", 300)
    assert found.startswith("module.needle(thread)")
    assert "TangleError" in found
    assert text[start : start + len(found)] == found
    assert len(found) == 300


def test_a_short_document_is_read_whole():
    assert passage(NEEDLE, "cloth", 5_000) == (NEEDLE, 0)


def test_without_a_known_word_the_beginning_is_read():
    assert passage(FILLER, "walrus", 100) == (FILLER[:100], 0)
    assert passage(FILLER, "", 100) == (FILLER[:100], 0)
