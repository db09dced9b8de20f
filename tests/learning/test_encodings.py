"""The encoding of a file is found and said, or the file refused."""

from __future__ import annotations

import pytest

from umbel.client.propose import propose
from umbel.errors import DataError
from umbel.learning.reading.encoding import NAMES
from umbel.learning.reading.tables import read_table

from .writers import as_delimited, corpus_of

SPOKEN = {
    "cp1252": [
        "Das Gerät läuft schön – “wirklich”",
        "Größe passt, Füße tun nicht weh",
        "l’été à Paris, garçon",
    ],
    "cp1250": ["Zażółć gęślą jaźń, świetny", "Nie polecam, źle działa", "łatwy i tani, żółty"],
    "cp1251": ["Очень хороший товар", "Плохое качество, не советую", "Быстрая доставка, спасибо"],
    "koi8_r": ["Очень хороший товар", "Плохое качество, не советую", "Быстрая доставка, спасибо"],
    "cp1253": ["Πολύ καλό προϊόν, το συνιστώ", "Κακή ποιότητα", "Γρήγορη παράδοση"],
    "cp1254": [
        "Çok güzel bir ürün, tavsiye ederim",
        "Kötü kalite, beğenmedim, ışık",
        "Hızlı kargo, şık",
    ],
    "mac_roman": ["Das Gerät läuft schön", "Größe passt, Füße", "l’été à Paris, garçon"],
    "cp850": ["Das Gerät läuft schön", "Größe passt, Füße", "übel überteuert"],
    "gb18030": ["这个产品非常好，我很喜欢", "质量太差了，不推荐", "物流很快，谢谢"],
    "big5": ["這個產品非常好，我很喜歡", "品質太差了，不推薦", "物流很快，謝謝"],
    "cp932": [
        "とても良い商品です。おすすめします",
        "品質が悪い、がっかりしました",
        "配送が早くて助かりました",
    ],
    "euc_jp": [
        "とても良い商品です。おすすめします",
        "品質が悪い、がっかりしました",
        "配送が早くて助かりました",
    ],
    "cp949": ["정말 좋은 제품입니다. 추천합니다", "품질이 너무 나쁩니다", "배송이 빨라서 좋았어요"],
}


@pytest.mark.parametrize("encoding", SPOKEN)
@pytest.mark.parametrize("count", [6, 300])
def test_an_encoding_is_found_and_said(tmp_path, encoding, count):
    texts = [f"{SPOKEN[encoding][n % 3]} {n}" for n in range(count)]
    rows = [(text, "ab"[n % 2]) for n, text in enumerate(texts)]
    path = as_delimited(tmp_path / "rows.csv", rows, ";", encoding)
    found, corpus = corpus_of(path)
    assert [text for text, _ in found] == texts
    assert f"{encoding} ({NAMES[encoding]}), guessed" in corpus.notes[0]
    assert corpus_of(path, encoding=encoding)[0] == found
    declared = propose(path).declared
    assert (declared.encoding, declared.text_column) == (encoding, "text")
    agent = read_table(path, "text", lenient=True, layout=declared.layout)
    assert agent.columns["text"] == texts


def test_quotes_of_windows_never_become_control_characters(tmp_path):
    rows = [("It’s “fine” – really…", "a"), ("L’été", "b")] * 5
    path = as_delimited(tmp_path / "rows.csv", rows, encoding="cp1252")
    assert corpus_of(path)[0] == rows
    with pytest.raises(DataError, match="set cp1252"):
        corpus_of(path, encoding="latin-1")
    plain = as_delimited(tmp_path / "plain.csv", [("grün", "a"), ("rot", "b")], encoding="latin-1")
    assert corpus_of(plain, encoding="latin-1")[0] == [("grün", "a"), ("rot", "b")]


@pytest.mark.parametrize("wrong", ["utf-8", "gb18030", "utf-16", "no-such", "hex"])
def test_an_encoding_that_does_not_fit_is_refused(tmp_path, wrong):
    rows = [("gr\xfcn \x9f \xff", "a"), ("\xe9t\xe9", "b")] * 5
    path = as_delimited(tmp_path / "rows.csv", rows, encoding="latin-1")
    with pytest.raises(DataError, match=r"encoding|is not"):
        corpus_of(path, encoding=wrong)


def test_utf_8_is_not_read_as_anything_else(tmp_path):
    path = as_delimited(tmp_path / "rows.csv", [("grün", "a"), ("été", "b")])
    with pytest.raises(DataError, match="is UTF-8, not cp1252"):
        corpus_of(path, encoding="cp1252")
