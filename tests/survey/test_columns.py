"""What a column seems to hold, in any script."""

import pytest

from umbel.survey.columns import describe, label_column, text_column

SENTENCES = {
    "Chinese": ("这家酒店非常好，我们很满意", "服务太慢了，房间也不干净"),
    "Japanese": ("とても良いホテルでした", "部屋が汚くて残念です"),
    "Thai": ("โรงแรมนี้ดีมากและสะอาด", "บริการช้าและห้องสกปรก"),
    "German": ("Ein sehr schönes Hotel am See", "Das Zimmer war leider nicht sauber"),
}
CLASSES = {
    "Chinese": ("好评", "差评"),
    "Japanese": ("良い", "悪い"),
    "Thai": ("ดี", "แย่"),
    "German": ("gut", "schlecht"),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_texts_and_classes_are_found_whatever_the_columns_are_called(language):
    texts = [f"{SENTENCES[language][n % 2]} {n}" for n in range(200)]
    classes = [CLASSES[language][n % 2] for n in range(200)]
    for given in (texts, [text.replace(" ", "") for text in texts if language != "German"]):
        if not given:
            continue
        columns = [
            describe("A", [str(n) for n in range(200)]),
            describe("B", classes),
            describe("C", given),
            describe("D", ["2026"] * 200),
        ]
        assert [column.kind for column in columns] == ["identifier", "classes", "text", "one value"]
        assert text_column(columns) == "C"
        assert label_column(columns, "C") == "B"


def test_short_names_and_codes_are_no_texts_in_any_script():
    names = [a + b for a in "王李张刘陈杨黄" for b in ("小明", "伟", "芳", "娜", "强", "磊")]
    assert describe("name", names).kind != "text"
    assert describe("code", [f"案件{n:05}" for n in range(200)]).kind == "identifier"
    assert describe("url", [f"https://x.example/{n}" for n in range(200)]).kind == "identifier"


def test_a_column_with_one_value_holds_no_classes():
    assert describe("unit", ["EUR"] * 5).kind == "one value"
    assert describe("unit", ["EUR", "", None]).kind != "one value"
    assert describe("unit", ["", None]).kind == "empty"
