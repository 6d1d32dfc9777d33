"""How much of a question came back: exact, token F1 and BLEU of what was said."""

import pytest

from ka2l.augmentation.reconstruction import reconstruction


def test_the_three_numbers_by_hand() -> None:
    texts = ["Where is Ana?", "where IS  bor", "Where was Cil?", ""]
    wanted = ["Where is Ana?", "Where is Bor?", "Where is Cil?", "Who?"]
    found = reconstruction(texts, wanted)
    assert found.n == 4
    assert found.exact == 2 / 4  # case, spaces and the mark at the end do not matter
    assert found.f1 == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert 0 < found.bleu < 1


def test_equal_texts_are_perfect_and_others_nothing() -> None:
    same = ["What is the capital of Peru?", "Which currency is used in Chad?"]
    assert reconstruction(same, same) == pytest.approx((1, 1, 1, 2))
    assert reconstruction(["red", "blue"], same)[:2] == (0, 0)
    assert reconstruction(list(reversed(same)), same).exact == 0


@pytest.mark.parametrize(("texts", "wanted"), [([], []), (["one"], ["one", "two"])])
def test_nothing_to_compare_is_an_error(texts: list[str], wanted: list[str]) -> None:
    with pytest.raises(ValueError, match=f"{len(texts)} texts and {len(wanted)} references"):
        reconstruction(texts, wanted)
