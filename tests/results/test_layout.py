"""The four forms of a table: none fails, none loses a character of a name, and all have the same digits and words."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.results import layout, table
from cil_spl.results.cells import cells_of, columns, one_line
from cil_spl.results.paired import Difference
from tests.results.test_table import run

NAMES = st.text(
    st.sampled_from("abcXYZ019_-.|\\&%$#{}~^*`<[]()→é数\n\t\0\ud800"), min_size=1, max_size=24
)  # what formats take for more than a letter
NUMBERS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-9, 123456.0, 1e12, -0.5, None]))


@st.composite
def runs(draw):
    found = []
    for _ in range(draw(st.integers(1, 6))):
        one = run(
            draw(st.integers(0, 3)),
            draw(st.sampled_from(draw(st.lists(NAMES, min_size=1, max_size=3)))),
            model=draw(NAMES),
            n=draw(st.sampled_from([None, 1, 359, 10000])),
            **draw(st.dictionaries(st.sampled_from(["method.lr", "trainer.epochs", "model.layers"]), NAMES)),
        )
        for figure in [key for key in one["row"] if "/" in key or key == "drop"]:
            one["row"][figure] = draw(NUMBERS)
        one["row"] |= draw(
            st.sampled_from([{}, {"columns": "mse, \ud800sn\0r", "score": "val/deployed_mse", "rise": 0.1}])
        )
        one["row"] |= {"deployed/mse": draw(NUMBERS)}
        one["status"] = draw(st.sampled_from(["finished"] * 3 + ["killed"]))
        found.append(one)
    found[0]["status"] = "finished"
    return found


def from_markdown(text):
    rows = [re.split(r"(?<!\\)(?:\\\\)*\|", line) for line in text.split("\n\n")[0].splitlines()]
    plain = [[re.sub(r"\\([\W_])", r"\1", cell.strip()) for cell in row[1:-1]] for row in rows]
    return [plain[0], *plain[2:]]


def from_latex(text):
    back = {value: chr(key) for key, value in layout._LATEX.items() if value != "-{}"} | {"-{}": "-"}
    whole = re.compile("|".join(re.escape(value) for value in sorted(back, key=len, reverse=True)))
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    cells = [re.split(r"(?<!\\) & ", row.removesuffix(r" \\")) for row in rows]
    return [[whole.sub(lambda m: back[m[0]], cell.removeprefix("{}")) for cell in row] for row in cells]


@given(runs(), st.integers(40, 200))
@settings(deadline=None, max_examples=150)
def test_all_forms_say_the_same(found, width):
    made = table.tabulate(found)
    heads, cells = columns(made)
    # Markdown and LaTeX, cell by cell
    for rows in (from_markdown(table.render(made, "markdown")), from_latex(table.render(made, "latex"))):
        assert [[cell.split() for cell in row] for row in rows] == [
            [cell.split() for cell in row] for row in [heads, *cells]
        ]
    # CSV has the figures as printed, and names and settings in full
    first, *lines = csv.reader(io.StringIO(table.render(made, "csv")))
    for line, row, one in zip(lines, cells, made.rows, strict=True):
        assert len(line) == len(first)
        printed = line[first.index("best") + 1 :]
        after = len(table.IDENTITY) + 1
        assert printed == row[after : after + len(printed)]
        assert line[0] == one_line(one.identity["method"])
    for form in table.FORMATS:
        table.render(made, form).encode()  # what a terminal cannot take is written out
    # text at any width: every word of every cell is there and unbroken; only settings may go on in the next line
    whole = cells_of(made)
    for text in (table.render(made, "text", width), table.render(made, "text")):
        assert {word for row in whole.cells for cell in row for word in cell.split()} <= set(text.split())
        squeezed = "".join(text.split())
        assert all("".join(item.split()) in squeezed for row in whole.settings for item in row)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 150])
def test_names_of_common_length_fit_any_terminal(width):
    runs = [run(s, m, a, model="bptt_snn", **{"trainer.epochs": e, "model.layers": f"[{e}]" * 50}) for s in range(3)
            for m, a, e in (("conversion", 0.7, 1), ("cil_conversion", 0.9, 3))]  # fmt: skip
    text = table.render(table.tabulate(runs), "text", width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("conversion", "cil_conversion", "trainer.epochs=1", "trainer.epochs=3", "90.00", "70.00"):
        assert word in text.split()


def test_without_a_width_each_row_is_one_line_and_nothing_is_cut():
    runs = [run(method="m" * 300, model="x"), run(model="y" * 300, **{"trainer.epochs": 1})]
    lines = table.render(table.tabulate(runs), "text").splitlines()
    assert len(lines[0]) > 600
    assert lines[2].split()[0] == "bptt"
    assert lines[2].endswith("trainer.epochs=1")
    assert lines[3].startswith("m" * 300)
    assert lines[4] == ""


def test_settings_stand_under_their_row_where_they_do_not_fit_beside_it():
    runs = [run(method=m, **{"trainer.epochs": e, "method.lr": 0.1 * e}) for m, e in (("bptt", 1), ("sltt", 3))]
    lines = table.render(table.tabulate(runs), "text", 80).splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("bptt"))
    assert "trainer.epochs=1" in lines[at + 1] or "trainer.epochs=1" in lines[at + 2]


def best_of_two():
    made = table.tabulate([run(s, m, a) for m, a in (("bptt", 0.5), ("sltt", 0.9)) for s in range(3)])
    assert [row.best for row in made.rows] == [False, True]
    return made


def test_the_best_is_bold_in_three_forms_and_marked_in_the_fourth():
    made = best_of_two()
    assert "| **90.00 ± 0.00** |" in table.render(made, "markdown")
    assert r"& \textbf{90.00 $\pm$ 0.00} &" in table.render(made, "latex")
    assert "\x1b[1m90.00 ± 0.00\x1b[0m" in table.render(made, "text", styled=True)
    assert "\x1b" not in table.render(made, "text")
    assert "\x1b[1m90.00\x1b[0m" in table.render(made, "text", 70, styled=True)
    assert "\x1b[1m90.00 ± 0.00\x1b[0m" in table.render(made, "text", 40, styled=True)
    for width in (40, 70, 80, 200, None):  # bold moves nothing
        styled = table.render(made, "text", width, styled=True)
        assert styled.replace("\x1b[1m", "").replace("\x1b[0m", "") == table.render(made, "text", width)
    assert [row["best"] for row in csv.DictReader(io.StringIO(table.render(made, "csv")))] == ["", "yes"]
    assert any(note.startswith("bold: ") for note in made.notes)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Difference(0.012, -0.003, 0.027, 3), "+1.20 (-0.30 to +2.70)"),
        (Difference(-0.00001, -0.003, 0.00001, 3), "+0.00 (-0.30 to +0.00)"),
        (Difference(-0.5), "-50.00"),
        (Difference(0.012, -0.003, 0.027, 1), "+1.20 (-0.30 to +2.70)¹"),
        (None, "–"),
    ],
)
def test_how_differences_are_written(difference, words):
    made = best_of_two()
    rows = (table.replace(made.rows[0], chosen=True), table.replace(made.rows[1], difference=difference))
    made = table.Table(rows, made.figures)
    heads, cells = columns(made)
    assert heads[-1] == "Difference (%)"
    assert [row[-1] for row in cells] == ["reference", words]


def test_long_values_that_read_alike_when_cut_are_told_apart():
    values = ["x" * 60 + "1" + "y" * 60, "x" * 60 + "2" + "y" * 60]
    cells = columns(table.tabulate([run(**{"model.layers": value}) for value in values]))[1]
    assert cells[0][-1] != cells[1][-1]
    assert cells[0][-1].startswith("model.layers=" + "x" * 24 + "…" + "y" * 12 + "#")


@pytest.mark.parametrize("width", [30, 40])
def test_a_name_wider_than_the_terminal_stays_whole(width):
    name = "a_method_with_a_name_that_no_terminal_of_forty_columns_holds"
    assert name in table.render(table.tabulate([run(method=name), run()]), "text", width).split()


def test_what_formats_take_for_more_than_a_letter():
    name = "_a_b--c*|\\[x](y)&amp;\n"
    made = table.tabulate([run(method=name)])
    assert r"| \_a_b--c\*\|\\\[x\](y)\&amp;\\n |" in table.render(made, "markdown")
    assert "\n" + r"\_a\_b-{}-c*|\textbackslash{}[x](y)\&amp;\textbackslash{}n & " in table.render(made, "latex")
    assert r"_a_b--c*|\[x](y)&amp;\n " in table.render(made, "text")


def test_what_wide_letters_take_is_counted():
    lines = table.render(table.tabulate([run(method="数数"), run(method="bptt")]), "text").splitlines()
    assert lines[2].index("quickstart") == lines[0].index("Model")
    assert lines[3].index("quickstart") == lines[0].index("Model") - 2  # two letters that take four columns
